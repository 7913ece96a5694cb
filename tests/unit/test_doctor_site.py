import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from test_doctor import by_name

from launch.doctor import shared
from launch.doctor.finding import Finding
from launch.doctor.site import check_site
from launch.slurm.partitions import minutes

SINFO = """\
cpu*|up|1-00:00:00|64|256000|(null)|(null)
gpu|up|2-00:00:00|48|512000|gpu:a100:4(S:0-1)|a100,ib
gpu|up|2-00:00:00|96|1024000|gpu:h100:8|h100,ib
old|down|infinite|16|64000|gpu:2|(null)
"""
SLURM = {
    "sinfo": f"cat <<'END'\n{SINFO}END",
    "sacctmgr": "printf 'lab||normal,long\\nteaching||normal\\n'",
    "scontrol": "echo 'MaxArraySize            = 1001'",
    "sbatch": 'case $* in *version*) echo slurm 23.11;; *) cat > "$TRIED";; esac',
    "srun": "echo '  --mpi=type'",
    "squeue": "",
    "scancel": "",
}
"""Output of a cluster's commands."""
GOOD = {
    "account": "lab",
    "array_size": 1000,
    "preprocess": {"partition": "cpu", "mem_gb": 8, "time_minutes": 240},
    "train": {
        **{"partition": "gpu", "qos": "long", "constraint": "h100&ib", "time_minutes": 2880},
        **{"cpus_per_task": 12, "gpus_per_node": 8, "mem_gb": 900},
    },
    "probe": {"partition": "gpu", "constraint": "a100|h100", "gpus_per_node": 1},
    "container": {"runtime": "apptainer", "image": "docker://fmct/fmct"},
}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a cluster's commands, first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {**SLURM, "apptainer": ""}.items():
        put(folder, name, text)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("TRIED", str(tmp_path / "tried"))
    monkeypatch.chdir(tmp_path)
    return folder


def put(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def site_file(folder: Path, **changes: object) -> Path:
    values: dict[str, object] = dict(GOOD)
    for key, value in changes.items():
        old = values.get(key)
        values[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def faults(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "fault"]


def test_a_site_that_matches_its_cluster_has_nothing_to_fix(programs: Path, tmp_path: Path) -> None:
    findings = list(check_site(site_file(tmp_path, scratch=str(tmp_path / "scratch"))))
    assert faults(findings) == []
    named = by_name(findings)
    assert {"site file", "container", "scratch", "file system", "account", "array_size", "train"} <= set(
        named
    )
    assert named["train"].level == "ok"
    assert "sbatch" in named["train"].message
    assert "#SBATCH --partition=gpu" in (tmp_path / "tried").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "scratch", "site.yaml", "tried"]


@pytest.mark.parametrize(
    ("changes", "name", "message", "remedy"),
    [
        ({"trian": {}}, "site file", "did you mean train?", ""),
        ({"account": "mylab"}, "account", "mylab", "lab, teaching"),
        ({"train": {"qos": "urgent"}}, "account", "train: QoS urgent", "long, normal"),
        ({"account": "teaching"}, "account", "train: QoS long", "normal"),
        ({"array_size": 4000}, "array_size", "MaxArraySize is 1001", "array_size: 1001"),
        ({"train": {"partition": "gpus"}}, "train", "no partition gpus", "one of cpu, gpu, old"),
        ({"probe": {"partition": "old", "constraint": None}}, "probe", "old is down", ""),
        ({"train": {"time_minutes": 5000}}, "train", "gpu allows 2880", "time_minutes: 2880"),
        ({"train": {"cpus_per_task": 13}}, "train", "104 cores: ", "correct train"),
        ({"train": {"constraint": "b200"}}, "train", "features b200", "correct train"),
        ({"train": {"constraint": "a100"}}, "train", "no node of gpu has 96 cores", "correct train"),
        ({"train": {"mem_gb": 2000}}, "train", "2000 GiB: ", "correct train"),
        ({"preprocess": {"gpus_per_node": 1}}, "preprocess", "1 GPUs: ", ""),
        ({"container": {"image": "/nowhere/fmct.sif"}}, "container", "/nowhere/fmct.sif", ""),
        ({"container": {"runtime": "enroot"}}, "container", "enroot is not on the PATH", "module"),
        ({"container": {"runtime": "pyxis"}}, "container", "srun has no --container-image", "pyxis"),
        ({"modules": ["cuda/99"]}, "modules", "module load fails for cuda/99", "module avail"),
    ],
)
def test_mismatches_are_named(
    programs: Path, tmp_path: Path, changes: dict[str, object], name: str, message: str, remedy: str
) -> None:
    (actual,) = faults(check_site(site_file(tmp_path, **changes)))
    assert actual.name == name
    assert message in actual.message
    assert remedy in actual.remedy


def test_gpus_requested_of_a_cpu_build_are_named(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    (actual,) = faults(check_site(site_file(tmp_path, container=None)))
    assert (actual.name, "built for CPUs" in actual.message) == ("PyTorch", True)


def test_errors_of_slurm_are_quoted(programs: Path, tmp_path: Path) -> None:
    refusal = (
        "sbatch: error: QOSMaxSubmitJobPerUserLimit\\nallocation failure: Job violates accounting policy"
    )
    put(programs, "sbatch", f'case $* in *version*) ;; *) printf "{refusal}\\n" >&2; exit 1;; esac')
    findings = faults(check_site(site_file(tmp_path)))
    assert {finding.name for finding in findings} == {"light", "scan", "preprocess", "train", "probe"}
    assert "QOSMaxSubmitJobPerUserLimit Job violates accounting policy" in findings[0].message


def test_without_accounting_or_slurm_unknowns_are_reported(programs: Path, tmp_path: Path) -> None:
    put(programs, "sacctmgr", "echo 'Problem talking to the database: Connection refused' >&2; exit 1")
    findings = by_name(check_site(site_file(tmp_path)))
    assert (findings["account"].level, "Connection refused" in findings["account"].message) == ("note", True)
    assert faults(findings.values()) == []
    put(programs, "sinfo", "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1")
    (alone,) = faults(check_site(site_file(tmp_path)))
    assert (alone.name, "Unable to contact" in alone.message) == ("controller", True)


def test_a_file_system_without_locks_is_named(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "IS_HELD", "")  # a second process gets the lock
    (actual,) = faults(check_site(site_file(tmp_path)))
    assert (actual.name, "lock" in actual.message) == ("file system", True)
    assert not list(tmp_path.glob(".fmct-doctor-*"))


def test_slurms_time_limits_are_minutes() -> None:
    limits = ("infinite", "1-00:00:00", "30:00", "2-12:30:00", "01:00:30")
    assert [minutes(limit) for limit in limits] == [float("inf"), 1440, 30, 3630, 60.5]
