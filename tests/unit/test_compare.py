import json
from pathlib import Path

import pytest

from fmct_hpc.train.compare import compare
from shards.errors import FmctError


def run(folder: Path, losses: dict[int, float]) -> Path:
    folder.mkdir()
    rows = [json.dumps({"step": step, "loss": loss, "mae": 1.0}) for step, loss in losses.items()]
    (folder / "metrics.jsonl").write_text("\n".join(rows))
    return folder


def test_only_common_steps_are_compared_and_one_bit_is_noticed(tmp_path: Path) -> None:
    first = run(tmp_path / "a", {1: 0.1, 2: 0.2, 3: 0.3})
    assert compare(first, run(tmp_path / "b", {2: 0.2, 3: 0.3, 4: 9.0})) == 2
    with pytest.raises(FmctError, match="loss differs at step 3"):
        compare(first, run(tmp_path / "c", {2: 0.2, 3: 0.1 + 0.2}))


def test_runs_without_a_common_step_are_not_equal(tmp_path: Path) -> None:
    with pytest.raises(FmctError, match="no step"):
        compare(run(tmp_path / "a", {1: 0.1}), run(tmp_path / "b", {2: 0.1}))
    with pytest.raises(FmctError, match=r"metrics\.jsonl"):
        compare(tmp_path / "a", tmp_path)
