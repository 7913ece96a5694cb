"""Training on real ranks: resume to the last bit, ZeRO stages, kills, signals, damage."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_training import STEPS, small_config, start_training, write_dataset, write_recipe

from fmct_hpc import load_encoder
from fmct_hpc.train.checkpoint import newest
from fmct_hpc.train.compare import compare
from launch.ranks import run_ranks
from shards import FmctError

pytestmark = pytest.mark.timeout(600)

VARIANTS = {
    "stage0": {"zero_stage": 0},
    "stage1": {"zero_stage": 1, "micro_batch": 1},
    "stage2": {"zero_stage": 2},
    "stage3": {"zero_stage": 3, "activation_checkpointing": True},
}
BREAK = 8

RANK = f"""
import json, sys
from pathlib import Path
from fmct_hpc.config import TrainConfig
from fmct_hpc.train.run import train

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name in {list(VARIANTS)}:
        config = TrainConfig.model_validate_json((folder / f"{{name}}.json").read_text())
        assert train(config, folder / name) == 0
        assert train(config, folder / f"{{name}}-resumed", until={BREAK}) == 0
        assert train(config, folder / f"{{name}}-resumed") == 0
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken and a resumed run of every variant, on two ranks."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_dataset(folder / "data")
    for name, engine in VARIANTS.items():
        (folder / f"{name}.json").write_text(small_config(data, engine=engine).model_dump_json())
    (folder / "rank.py").write_text(RANK)
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        assert run_ranks([sys.executable, str(folder / "rank.py"), str(folder)], 2) == 0
    return folder


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(first: Path, second: Path) -> None:
    assert compare(first, second) == STEPS
    ours, theirs = (load_encoder(run / "encoder.safetensors")[0].state_dict() for run in (first, second))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_equals_the_unbroken_one_to_the_last_bit(runs: Path, variant: str) -> None:
    assert [row["step"] for row in metrics(runs / f"{variant}-resumed")] == list(range(1, STEPS + 1))
    assert_same_run(runs / variant, runs / f"{variant}-resumed")


@pytest.mark.parametrize("variant", ["stage1", "stage2", "stage3"])
def test_zero_stages_learn_what_stage_0_learns(runs: Path, variant: str) -> None:
    for ours, theirs in zip(metrics(runs / variant), metrics(runs / "stage0"), strict=True):
        for name in ("loss", "dino", "mae", "teacher_entropy", "gradient_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-4), (ours["step"], name)


def test_training_learns_and_shows_what_it_reconstructs(runs: Path) -> None:
    losses = [row["mae"] for row in metrics(runs / "stage2")]
    assert sum(losses[-5:]) < sum(losses[:5])
    pictures = sorted(path.name for path in (runs / "stage2/reconstructions").iterdir())
    assert pictures == ["step-00000010.png", "step-00000020.png"]


def test_the_exported_encoder_loads_in_two_lines_and_names_its_data(runs: Path) -> None:
    encoder, info = load_encoder(runs / "stage3/encoder.safetensors")
    assert encoder(torch.rand(2, 3, 24, 24, 24)).shape == (2, 1 + 1 + 8, 24)
    assert (info.step, info.spacing_mm, info.preprocess_digest) == (STEPS, (4.0, 4.0, 4.0), "b" * 64)
    assert str(runs) not in (runs / "stage3/encoder.json").read_text()


def wait_for(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rows(run: Path) -> int:
    return len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(child) for child in children.split()]


def test_after_sigkill_of_a_rank_the_same_command_goes_on(runs: Path, tmp_path: Path) -> None:
    recipe = write_recipe(small_config(runs / "data", engine=VARIANTS["stage2"]), tmp_path / "recipe.yaml")
    process = start_training(recipe, tmp_path / "run")
    wait_for(lambda: rows(tmp_path / "run") >= 7, process)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode not in (0, 75), output
    process = start_training(recipe, tmp_path / "run")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "steps 7 to" in output or "steps 13 to" in output
    assert_same_run(runs / "stage2", tmp_path / "run")


def test_sigterm_to_one_rank_makes_all_save_and_ask_to_be_run_again(runs: Path, tmp_path: Path) -> None:
    recipe = write_recipe(small_config(runs / "data", engine=VARIANTS["stage3"]), tmp_path / "recipe.yaml")
    process = start_training(recipe, tmp_path / "run")
    wait_for(lambda: rows(tmp_path / "run") >= 2, process)
    os.kill(ranks_of(process)[1], signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 75, output
    saved = newest(tmp_path / "run")
    assert saved is not None
    assert saved[1].step == rows(tmp_path / "run") < STEPS
    process = start_training(recipe, tmp_path / "run")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert_same_run(runs / "stage3", tmp_path / "run")


def copy_with_checkpoints(runs: Path, tmp_path: Path) -> tuple[Path, list[Path]]:
    run = shutil.copytree(runs / "stage3", tmp_path / "run")
    return run, sorted((run / "checkpoints").iterdir())


def damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
        return
    if how == "truncated":
        del data[-1:]
    else:
        data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
def test_every_damaged_file_is_named_and_the_checkpoint_before_is_taken(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    run, checkpoints = copy_with_checkpoints(runs, tmp_path)
    files = [path for path in checkpoints[-1].rglob("*") if path.is_file()]
    assert len([f for f in files if "rank" in f.name]) == 2, "each rank has a file of its own"
    for file in files:
        kept = file.read_bytes()
        damage(file, how)
        caplog.clear()
        found = newest(run)
        assert found is not None
        assert found[0] == checkpoints[-2], file
        assert str(file) in caplog.text
        file.write_bytes(kept)
    found = newest(run)
    assert found is not None
    assert found[0] == checkpoints[-1]


def test_without_a_whole_checkpoint_nothing_starts_and_one_line_says_why(runs: Path, tmp_path: Path) -> None:
    run, checkpoints = copy_with_checkpoints(runs, tmp_path)
    for checkpoint in checkpoints:
        next(checkpoint.glob("rank-00001*")).unlink()
    before = sorted(run.rglob("*"))
    with pytest.raises(FmctError, match="rank-00001"):
        newest(run)
    recipe = write_recipe(small_config(runs / "data", engine=VARIANTS["stage3"]), tmp_path / "recipe.yaml")
    process = start_training(recipe, run)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    [line] = output.splitlines()
    assert line.startswith("fmct: no whole checkpoint is left")
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["optim.base_lr=0.1"], "optim.base_lr=0.06, not 0.1"),
        (["run.batch=3"], "run.batch=3 is not a multiple"),
        (["data.path=nowhere"], "nowhere"),
    ],
)
def test_a_run_that_cannot_go_on_is_refused_before_any_rank_starts(
    runs: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    recipe = write_recipe(small_config(runs / "data", engine=VARIANTS["stage3"]), tmp_path / "recipe.yaml")
    process = start_training(recipe, runs / "stage3", 2, *arguments)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    [line] = output.splitlines()
    assert expected in line


def test_two_trainings_in_one_folder_are_refused(runs: Path, tmp_path: Path) -> None:
    recipe = write_recipe(small_config(runs / "data"), tmp_path / "recipe.yaml")
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = start_training(recipe, tmp_path)
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert output.count("another process is training there") == 1
