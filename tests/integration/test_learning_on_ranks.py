"""Looks at the features change no bit of a run, and tell the same at any number of ranks and ZeRO stage."""

import json
import os
import sys
from pathlib import Path

import pytest
from small_training import small_config, write_labelled

from fmct_hpc.train.checkpoint import ONLINE, best, checkpoint_path, checkpoints
from launch.ranks import run_ranks

STEPS = 6
LOSSES = ("loss", "dino", "ibot", "mae", "gradient_norm", "teacher_entropy", "feature_deviation")
FIGURES = {
    *("retrieval", "retrieval_chance", "crop_likeness", "cls_rank", "patch_rank"),
    *("patch_similarity", "cls_patch_similarity"),
    *("probe_knn", "probe_linear", "probe_linear/ball"),
}
RANK = """
import sys
from pathlib import Path
from fmct_hpc.config import TrainConfig
from fmct_hpc.train.run import train

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        config = TrainConfig.model_validate_json((folder / f"{name}.json").read_text())
        if name.endswith("resumed"):
            assert train(config, folder / name, until=3) == 0
        assert train(config, folder / name) == 0
"""


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_looks_change_no_bit_and_tell_the_same_on_any_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data, labels = write_labelled(tmp_path, 51)  # a rank has one volume less than others
    (tmp_path / "rank.py").write_text(RANK)
    run = {"steps": STEPS, "batch": 8, "images_every": 100, "checkpoint_every": 1, "keep_last": 1}

    def do(ranks: int, *names: str) -> None:
        for name in names:
            stage, precision, looked = name.split("-")[:3]
            engine = {"zero_stage": int(stage), "precision": precision, "micro_batch": 2}
            health = {"labels": labels, "most_volumes": 51} if looked == "looked" else {"every": 0}
            config = small_config(data, engine=engine, run=run, health=health)
            (tmp_path / f"{name}.json").write_text(config.model_dump_json())
        command = [sys.executable, str(tmp_path / "rank.py"), str(tmp_path), *names]
        assert run_ranks(command, ranks).code == 0

    kinds = ["2-fp32", "1-bf16", "3-fp32"]
    do(2, *(f"{kind}-{looked}-2" for kind in kinds for looked in ("looked", "blind")))
    do(1, "2-fp32-looked-1", "2-fp32-looked-1-resumed")
    do(4, "0-fp32-looked-4")
    for kind in kinds:
        looked, blind = metrics(tmp_path / f"{kind}-looked-2"), metrics(tmp_path / f"{kind}-blind-2")
        assert [[row[name] for name in LOSSES] for row in looked] == [
            [row[name] for name in LOSSES] for row in blind
        ], kind
        assert all(row.keys() >= FIGURES for row in looked)
        assert not any(row.keys() & FIGURES for row in blind)
        ends = [tmp_path / f"{kind}-{name}-2/encoder.safetensors" for name in ("looked", "blind")]
        assert ends[0].read_bytes() == ends[1].read_bytes(), kind
    expected = metrics(tmp_path / "2-fp32-looked-2")
    assert expected[-1]["cls_rank"] != pytest.approx(expected[0]["cls_rank"], rel=1e-3), "nothing was learned"
    for name in ("2-fp32-looked-1", "0-fp32-looked-4", "3-fp32-looked-2"):
        for ours, theirs in zip(metrics(tmp_path / name), expected, strict=True):
            told = {figure: ours[figure] for figure in FIGURES}
            assert told == pytest.approx({figure: theirs[figure] for figure in FIGURES}, rel=1e-3), name
    unbroken, resumed = (tmp_path / f"2-fp32-looked-1{end}" for end in ("", "-resumed"))
    for ours, theirs in zip(metrics(resumed), metrics(unbroken), strict=True):
        assert {f: ours[f] for f in (*FIGURES, *LOSSES)} == {f: theirs[f] for f in (*FIGURES, *LOSSES)}
    kept = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (unbroken, resumed)]
    assert kept[0] == kept[1]
    scores = [row["probe_linear"] for row in metrics(unbroken)]
    found = best(unbroken, ONLINE)
    assert found == (checkpoint_path(unbroken, len(scores) - scores[::-1].index(max(scores))), max(scores))
    assert {path.name for path in checkpoints(unbroken)} == {found[0].name, f"step-{STEPS:08d}"}
