"""Feature statistics do not change a run, and are equal for any number of ranks and ZeRO stage."""

import json
from pathlib import Path

import pytest
from forked_ranks import run_forked
from small_training import small_config, write_labelled

from fmct_hpc.train.checkpoint import ONLINE, best, checkpoint_path, checkpoints

pytestmark = pytest.mark.timeout(600)

STEPS = 4
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
            assert train(config, folder / name, until=2) == 0
        assert train(config, folder / name) == 0
"""


KINDS = ("2-fp32", "1-bf16", "3-fp32")


class Runs:
    """Trains on ranks; a run's name gives its ZeRO stage, precision, and whether features are evaluated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.labels = write_labelled(folder, 51)  # one rank has one volume less than the others
        (folder / "rank.py").write_text(RANK)

    def prepare(self, *names: str) -> list[str]:
        """Write the configurations of these runs; the arguments of the ranks."""
        run = {"steps": STEPS, "batch": 8, "images_every": 100, "checkpoint_every": 1, "keep_last": 1}
        for name in names:
            stage, precision, setting = name.split("-")[:3]
            engine = {"zero_stage": int(stage), "precision": precision, "micro_batch": 2}
            health = {"labels": self.labels, "max_volumes": 51} if setting == "evaluated" else {"every": 0}
            config = small_config(self.data, engine=engine, run=run, health=health)
            (self.folder / f"{name}.json").write_text(config.model_dump_json())
        return [str(self.folder), *names]

    def metrics(self, name: str) -> list[dict[str, float]]:
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    made = Runs(tmp_path_factory.mktemp("runs"))
    on_two = made.prepare(*(f"{kind}-{setting}-2" for kind in KINDS for setting in ("evaluated", "plain")))
    on_one = made.prepare("2-fp32-evaluated-1", "2-fp32-evaluated-1-resumed")
    on_four = made.prepare("0-fp32-evaluated-4")
    assert run_forked(made.folder / "rank.py", (2, on_two), (1, on_one), (4, on_four)) == 0
    return made


def test_evaluations_leave_a_run_bit_identical(runs: Runs) -> None:
    for kind in KINDS:
        evaluated, plain = (runs.metrics(f"{kind}-{name}-2") for name in ("evaluated", "plain"))
        assert [[row[name] for name in LOSSES] for row in evaluated] == [
            [row[name] for name in LOSSES] for row in plain
        ], kind
        assert all(row.keys() >= FIGURES for row in evaluated)
        assert not any(row.keys() & FIGURES for row in plain)
        ends = [runs.folder / f"{kind}-{name}-2/encoder.safetensors" for name in ("evaluated", "plain")]
        assert ends[0].read_bytes() == ends[1].read_bytes(), kind


def test_evaluations_agree_on_any_number_of_ranks_and_after_a_resume(runs: Runs) -> None:
    expected = runs.metrics("2-fp32-evaluated-2")
    assert expected[-1]["cls_rank"] != pytest.approx(expected[0]["cls_rank"], rel=1e-3), "nothing was learned"
    for name in ("2-fp32-evaluated-1", "0-fp32-evaluated-4", "3-fp32-evaluated-2"):
        for ours, theirs in zip(runs.metrics(name), expected, strict=True):
            figures = {figure: ours[figure] for figure in FIGURES}
            assert figures == pytest.approx({figure: theirs[figure] for figure in FIGURES}, rel=1e-3), name
    unbroken, resumed = (f"2-fp32-evaluated-1{end}" for end in ("", "-resumed"))
    for ours, theirs in zip(runs.metrics(resumed), runs.metrics(unbroken), strict=True):
        assert {f: ours[f] for f in (*FIGURES, *LOSSES)} == {f: theirs[f] for f in (*FIGURES, *LOSSES)}
    folders = [runs.folder / name for name in (unbroken, resumed)]
    kept = [sorted(path.name for path in (folder / "checkpoints").iterdir()) for folder in folders]
    assert kept[0] == kept[1]
    scores = [row["probe_linear"] for row in runs.metrics(unbroken)]
    actual = best(folders[0], ONLINE)
    last = len(scores) - scores[::-1].index(max(scores))
    assert actual == (checkpoint_path(folders[0], last), max(scores))
    assert {path.name for path in checkpoints(folders[0])} == {actual[0].name, f"step-{STEPS:08d}"}
