"""Training with other tokens than the default's on real ranks: resume, other ranks and stages."""

import json
from pathlib import Path

import pytest
from small_training import STEPS, VOLUMES, small_config, write_dataset
from test_train import assert_same_run, metrics, run_scenario

import fmct_hpc

TOKENS: dict[str, dict[str, object]] = {
    "data": {"view_size": (8, 24, 36)},
    "model": {
        **{"patch_size": (4, 12, 12)},
        **{"positions": "rope", "rope_jitter": {"shift": 0.1, "stretch": 1.2, "rescale": 2}},
    },
}
ENGINES: dict[int, dict[str, object]] = {
    1: {"zero_stage": 1, "micro_batch": 2},
    2: {"zero_stage": 2, "activation_checkpointing": True},
    4: {"zero_stage": 3, "micro_batch": 1},
}

pytestmark = pytest.mark.timeout(600)


def trained(data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *parts: tuple[int, int]) -> Path:
    """A run on (ranks, until this step), one after another."""
    for ranks, until in parts:
        folder.mkdir(exist_ok=True)
        config = small_config(data, engine=ENGINES[ranks], **TOKENS)
        (folder / f"{ranks}.json").write_text(config.model_dump_json())
        monkeypatch.setenv("ELASTIC", f"{ranks}:{until}")
        assert run_scenario("elastic", folder, ranks) == 0
    return folder / "elastic"


def test_a_run_resumes_to_the_last_bit_and_learns_alike_on_any_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_dataset(tmp_path / "data")
    unbroken = trained(data, tmp_path / "unbroken", monkeypatch, (2, STEPS))
    resumed = trained(data, tmp_path / "resumed", monkeypatch, (2, 8), (2, STEPS))
    assert_same_run(unbroken, resumed)
    moved = trained(data, tmp_path / "moved", monkeypatch, (1, 9), (4, STEPS))
    for ours, theirs in zip(metrics(moved), metrics(unbroken), strict=True):
        for name in ("loss", "dino", "ibot", "mae", "teacher_entropy", "gradient_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-4), (ours["step"], name)
    recorded = json.loads((unbroken / "encoder.json").read_text())
    assert (recorded["model"]["positions"], recorded["data"]["view_size"]) == ("rope", [8, 24, 36])
    for folder in ("reconstructions", "attention"):
        assert len(list((unbroken / folder).glob("*.png"))) == 2
    scans = list(fmct_hpc.features(data, unbroken))
    assert [(scan.patches.shape, scan.centres_mm.shape) for scan in scans] == VOLUMES * [((12, 24), (12, 3))]
