import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_training import small_config, write_dataset, write_recipe

from fmct_hpc.train.process_group import join
from launch.program import FMCT
from launch.ranks import run_ranks
from shards.errors import FmctError

ENVIRONMENT = "import os, pathlib, sys; pathlib.Path(sys.argv[1], os.environ['RANK']).write_text"


def test_each_rank_gets_its_index_and_the_same_rendezvous(tmp_path: Path) -> None:
    names = ["WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]
    code = f"{ENVIRONMENT}(' '.join(os.environ[n] for n in {names}))"
    assert run_ranks([sys.executable, "-c", code, str(tmp_path)], 3).code == 0
    rows = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [row[1] for row in rows] == ["0", "1", "2"]
    assert {(row[0], row[2], row[3]) for row in rows} == {("3", "127.0.0.1", rows[0][3])}
    # Rank 0 listens later: until then the port must not be assigned to another program.
    given_out = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]
    assert int(rows[0][3]) < int(given_out)


def test_a_failing_rank_ends_the_others_and_sets_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.ranks.FAILED_RANK_GRACE_SECONDS", 0.2)
    code = "import os, sys, time; sys.exit(7) if os.environ['RANK'] == '1' else time.sleep(600)"
    started = time.monotonic()
    assert run_ranks([sys.executable, "-c", code], 2) == (7, 1)
    assert time.monotonic() - started < 60


def test_sigterm_reaches_every_rank(tmp_path: Path) -> None:
    rank = (
        "import os, pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        f"pathlib.Path({str(tmp_path)!r}, os.environ['RANK']).touch()\n"
        "time.sleep(600)\n"
    )
    launcher = (
        "import sys; from launch.ranks import run_ranks; "
        f"sys.exit(run_ranks([sys.executable, '-c', {rank!r}], 2).code)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", launcher], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75


def test_interpreter_shutdown_does_not_change_the_exit_code_of_a_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    code = """if True:
        import atexit, os, sys
        import torch.distributed as dist
        from launch import cli

        def run():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
            print("all is saved")
            sys.exit(75)

        atexit.register(os.abort)  # as gloo's threads do now and then
        cli.built = lambda words: run
        cli.main()
    """
    result = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=100)
    assert (result.returncode, result.stdout) == (75, "all is saved\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_recipe_without_a_gpu_is_refused() -> None:
    with pytest.raises(FmctError, match=r"engine\.device=gpu: PyTorch finds no GPU .*fmct doctor"):
        join("gpu")


@pytest.mark.parametrize("wrong", ["run.stepz=3", "engine.device=gpu"])
def test_an_error_of_every_rank_is_printed_once(tmp_path: Path, wrong: str) -> None:
    """Also if the ranks were not started by `fmct train`."""
    if wrong.startswith("engine") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    recipe = write_recipe(small_config(write_dataset(tmp_path / "data")), tmp_path / "recipe.yaml")
    command = [*FMCT, "train", "--config", str(recipe), "--run", str(tmp_path / "run"), wrong]
    output = tmp_path / "stderr.txt"
    code = "import sys; from launch.ranks import run_ranks; sys.exit(run_ranks(sys.argv[1:], 2).code)"
    with output.open("w") as stream:
        result = subprocess.run([sys.executable, "-c", code, *command], stderr=stream, timeout=200)
    lines = [line for line in output.read_text().splitlines() if line.startswith("fmct: ")]
    assert (result.returncode, len(lines)) == (2, 1), output.read_text()
    assert wrong.split("=")[0] in lines[0]
