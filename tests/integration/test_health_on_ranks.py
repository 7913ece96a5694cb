"""Two ranks when one computes a value that is not finite, and when one never joins."""

import os
import sys
from pathlib import Path

import pytest
from forked_commands import forked_python
from small_training import run_training, small_config, write_dataset, write_recipe

from fmct_hpc.train.attempts import conclude
from fmct_hpc.train.watchdog import EXIT_HUNG
from launch.ranks import run_ranks

RANK = """
import sys, time
from pathlib import Path
import torch
import torch.distributed as dist
from fmct_hpc.config import TrainConfig
from fmct_hpc.train.process_group import join

def everything(training):
    return torch.cat([piece.values.flatten().clone() for piece in training.state.pieces()])

def main(folder):
    place = join("cpu", hang_minutes=50)
    # The watchdog tells more than a collective that gives up, so it must come first.
    timeout = dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout
    assert timeout.total_seconds() > 50 * 60, timeout
    from fmct_hpc.data.loader import Loader
    from fmct_hpc.train.loop import Training
    from fmct_hpc.train.watchdog import Watchdog
    for name in ("stage0", "stage1", "stage2", "stage3"):
        config = TrainConfig.model_validate_json((folder / f"{name}.json").read_text())
        training = Training(config, place)
        loader = Loader(config.data, 0, 4, 2, place.rank, 2)
        batches = iter(loader)
        first, second, third = next(batches), next(batches), next(batches)
        assert not training.step(0, [first], False).non_finite
        before = everything(training)
        if place.rank == 1:
            second.views.whole[0, 1] = float("nan")
        outcome = training.step(1, [second], False)
        expected = [None, None]
        dist.all_gather_object(expected, second.keys)
        assert outcome.non_finite == f"volumes of rank 1: {', '.join(expected[1])}", outcome.non_finite
        assert torch.equal(everything(training), before), name
        assert not training.step(2, [third], False).non_finite
        assert not torch.equal(everything(training), before), name
        loader.close()
    (folder / f"sound-{place.rank}").touch()
    with Watchdog(folder, place.rank, 2.0):
        if place.rank == 1:
            time.sleep(600)
        dist.barrier()

if __name__ == "__main__":
    main(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "data")


def test_no_rank_updates_on_non_finite_gradients_and_a_hang_dumps_all_stacks(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in range(4):
        config = small_config(data, engine={"zero_stage": stage})
        (tmp_path / f"stage{stage}.json").write_text(config.model_dump_json())
    (tmp_path / "rank.py").write_text(RANK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code = run_ranks([*forked_python(), str(tmp_path / "rank.py"), str(tmp_path)], 2).code
    assert (tmp_path / "sound-0").exists()
    assert (tmp_path / "sound-1").exists()
    assert code == EXIT_HUNG
    waiting, cause = ((tmp_path / "hangs" / f"rank-0000{rank}.txt").read_text() for rank in range(2))
    assert "barrier" in waiting
    assert "barrier" not in cause
    assert f'rank.py", line {RANK[: RANK.index("time.sleep")].count(chr(10)) + 1} in main' in cause


STUCK = """
import os, sys, time
from pathlib import Path
from fmct_hpc.config import TrainConfig
from fmct_hpc.train import state
from fmct_hpc.train.run import train

class Stuck(state.State):
    def __init__(self, *arguments):
        if os.environ["RANK"] == "1":
            time.sleep(600)
        super().__init__(*arguments)

if __name__ == "__main__":
    import fmct_hpc.train.loop
    fmct_hpc.train.loop.State = Stuck
    folder = Path(sys.argv[1])
    sys.exit(train(TrainConfig.model_validate_json((folder / "config.json").read_text()), folder / "run"))
"""


def test_a_start_that_hangs_dumps_all_stacks(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(data, run={"steps": 2, "hang_minutes": 0.3})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    (tmp_path / "rank.py").write_text(STUCK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert run_ranks([*forked_python(), str(tmp_path / "rank.py"), str(tmp_path)], 2).code == EXIT_HUNG
    assert "__init__" in (tmp_path / "run/hangs/rank-00001.txt").read_text()
    concluded = conclude(tmp_path / "run")
    assert concluded is not None
    assert concluded.cause == "hang"


def test_a_run_shows_attention_and_embeddings_and_records_a_profile(data: Path, tmp_path: Path) -> None:
    sections = {"run": {"steps": 8, "images_every": 8}, "engine": {"zero_stage": 3}}
    recipe = write_recipe(small_config(data, **sections), tmp_path / "recipe.yaml")
    ended = run_training(recipe, tmp_path / "run", 2, "--profile")
    assert ended.returncode == 0, ended.stdout
    run = tmp_path / "run"
    for folder in ("attention", "reconstructions"):
        assert (run / folder / "step-00000008.png").read_bytes().startswith(b"\x89PNG")
    [metadata] = (run / "tensorboard").rglob("metadata.tsv")
    header, *rows = metadata.read_text().splitlines()
    assert header.split("\t") == ["key", "kernel_class", "manufacturer"]
    assert len(rows) == 4, "the global batch"
    [trace] = (run / "profile").iterdir()
    assert trace.name == "step-00000004.json"
    assert '"traceEvents"' in trace.read_text()
    assert "Self CPU" in ended.stdout
