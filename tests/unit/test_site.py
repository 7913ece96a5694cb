"""Effects of a site file on the batch script and the command lines; without Slurm."""

import shlex
from pathlib import Path

import pytest
import yaml

from launch.config import load
from launch.scheduler import Job
from launch.slurm.site import Site
from launch.slurm.submit import command_lines, describe, script
from shards.errors import FmctError

RECIPES = Path(__file__).parents[2] / "launch/recipes"


def site(tmp_path: Path, **values: object) -> Site:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(values))
    return load(Site, path, [])


def directives(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH --")]
    return {
        name: shlex.split(value)[0] if value else "" for name, _, value in (x.partition("=") for x in lines)
    }


def test_every_key_of_a_site_reaches_the_script(tmp_path: Path) -> None:
    cluster = site(
        tmp_path,
        account="lab",
        modules=["cuda/13.0"],
        environment={"NCCL_SOCKET_IFNAME": "ib0", "GREETING": "two words"},
        setup=["source /opt/fmct/bin/activate"],
        scratch="/local/scratch",
        mail={"user": "me@example.org", "type": ["FAIL", "TIME_LIMIT"]},
        directives={"reservation": "night", "exclusive": True},
        width=7,
        warn_seconds=99,
        train={
            **{"partition": "gpu", "qos": "long", "constraint": "h100&ib", "time_minutes": 600},
            **{"cpus_per_task": 12, "gpus_per_node": 4, "mem_gb": 1.5},
            **{"directives": {"exclusive": False, "exclude": "n[3-4]"}},
        },
    )
    job = Job("x", (("a",), ("b",)), cluster.train, 2, 4, after_success=("p", "q"), after_end=("r",))
    text = script(job, tmp_path / "slurm", cluster, {"p": "11", "r": "13"})
    expected = {
        "account": "lab",
        "partition": "gpu",
        "qos": "long",
        "constraint": "h100&ib",
        "time": "600",
        "cpus-per-task": "12",
        "gpus-per-node": "4",
        "mem": "1536M",
        "nodes": "2",
        "ntasks-per-node": "4",
        "array": "0-1%2",
        "reservation": "night",
        "exclude": "n[3-4]",
        "mail-user": "me@example.org",
        "mail-type": "FAIL,TIME_LIMIT",
        "signal": "USR2@99",
        "dependency": "afterok:11:q,afterany:13",
        "kill-on-invalid-dep": "yes",
        "requeue": "",
    }
    actual = directives(text)
    assert {name: actual.get(name) for name in expected} == expected
    assert "exclusive" not in actual
    order = [
        "module load cuda/13.0",
        "GREETING='two words'",
        "TMPDIR=/local/scratch",
        "/opt/fmct/bin/activate",
    ]
    order += ["fmct_rendezvous", "srun "]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


BINDS = ["/tmp", "/images:/mnt:ro"]


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        (
            "apptainer",
            "apptainer exec --nv --pwd {here} --bind /tmp:/tmp:rw --bind /images:/mnt:ro "
            "--bind /local:/local:rw image.sif fmct train",
        ),
        (
            "enroot",
            "enroot start --conf {enroot} --env KEY --mount /tmp:/tmp:none:x-create=auto,rbind,rw "
            "--mount /images:/mnt:none:x-create=auto,rbind,ro "
            "--mount /local:/local:none:x-create=auto,rbind,rw "
            'image.sif sh -c \'cd "$0" && exec "$@"\' {here} fmct train',
        ),
        ("pyxis", "fmct train"),
    ],
)
def test_a_container_wraps_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    container = {"runtime": runtime, "image": "image.sif", "binds": BINDS}
    cluster = site(
        tmp_path, container=container, cache="/local", environment={"KEY": "v"}, train={"gpus_per_node": 1}
    )
    job = Job("fmct-train", (("fmct", "train"),), cluster.train)
    enroot = RECIPES.parent / "enroot.sh"
    assert command_lines(job, cluster) == [tuple(shlex.split(expected.format(here=tmp_path, enroot=enroot)))]
    text = script(job, tmp_path, cluster)
    [srun] = [line for line in text.splitlines() if line.startswith("srun ")]
    assert "--export=ALL" in srun.split()
    pyxis = f"--container-image=image.sif --container-workdir={tmp_path} --container-mounts="
    assert (pyxis + "/tmp:/tmp:rw,/images:/mnt:ro,/local:/local:rw python3 -P -u -m" in text) == (
        runtime == "pyxis"
    )


def test_without_gpus_no_driver_is_mounted(tmp_path: Path) -> None:
    cluster = site(tmp_path, container={"runtime": "apptainer", "image": "i"})
    [command] = command_lines(Job("fmct-preprocess", (("fmct",),), cluster.preprocess), cluster)
    assert "--nv" not in command


def test_a_folder_not_mounted_in_the_container_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cluster = site(tmp_path, container={"runtime": "pyxis", "image": "i", "binds": ["/data"]})
    with pytest.raises(FmctError, match=rf"container\.binds: {tmp_path}/run is in none of them"):
        describe(Job("fmct-train", (("fmct",),), cluster.train), tmp_path / "run", cluster)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"trian": {}}, "did you mean train"),
        ({"train": {"gpus_per_nod": 4}}, "did you mean gpus_per_node"),
        ({"scratch": "local"}, "scratch: expected an absolute path"),
        ({"cache_gb": 5}, "cache_gb needs cache"),
        ({"container": {"runtime": "docker", "image": "i"}}, "container.runtime"),
        ({"container": {"runtime": "pyxis", "image": "i", "binds": ["data"]}}, "container.binds"),
        ({"mail": {"user": "me", "type": ["NEVER"]}}, "mail.type"),
    ],
)
def test_an_invalid_site_is_one_line_that_names_the_key(
    tmp_path: Path, values: dict[str, object], expected: str
) -> None:
    with pytest.raises(FmctError, match=expected) as caught:
        site(tmp_path, **values)
    assert "\n" not in str(caught.value)


def test_the_example_site_is_valid() -> None:
    assert load(Site, RECIPES / "site-example.yaml", []).train.gpus_per_node == 4
