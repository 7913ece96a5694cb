"""The summary of a report: every figure is from a file, and the verdict from intervals."""

import json
import shutil
from pathlib import Path

import pytest
from report_run import STEPS, VOLUMES, Inputs, write_inputs
from typer.testing import CliRunner

from fmct_hpc.probe.run import ENCODERS, ProbeResult, Row
from launch.cli import app
from launch.report.summary import shown, verdict
from shards.errors import FmctError

Interval = tuple[float, float, float]
HIGH, MIDDLE, LOW = (0.8, 0.75, 0.85), (0.7, 0.6, 0.78), (0.6, 0.5, 0.7)


def probed(areas: dict[str, tuple[Interval, Interval]], seen: int | None = 0) -> ProbeResult:
    """The results of a probe: areas of the trained and the untrained encoder for each task."""
    rows = [
        Row(task=task, head=head, encoder=encoder, volumes=9, positives=4, auc=area, gain=(0.1, -0.1, 0.3))
        for task, pair in areas.items()
        for head, shown_areas in (("logistic", pair), ("neighbours", (HIGH, LOW)))
        for encoder, area in zip(ENCODERS, shown_areas, strict=True)
    ]
    return ProbeResult(
        rows=rows,
        skipped={},
        patients=7,
        pretrained_patients=seen,
        confidence=0.95,
        step=1,
        encoder_digest="e" * 64,
    )


@pytest.mark.parametrize(
    ("areas", "word", "named"),
    [
        ({"a": (HIGH, LOW), "b": (MIDDLE, LOW)}, "helps", "1 of 2 findings (a)"),
        ({"a": (HIGH, LOW), "b": (HIGH, LOW)}, "helps", "2 of 2 findings (a, b)"),
        ({"a": (HIGH, MIDDLE), "b": (MIDDLE, LOW)}, "shows no gain", "all 2 findings"),
        ({"a": (LOW, HIGH), "b": (HIGH, LOW)}, "harms", "1 of 2 findings (a)"),
        ({"a": (HIGH, (0.6, 0.5, 0.75))}, "shows no gain", "all 1 findings"),
    ],
)
def test_the_verdict_requires_disjoint_intervals(
    areas: dict[str, tuple[Interval, Interval]], word: str, named: str
) -> None:
    text = verdict(probed(areas))
    assert f"pretraining {word}:" in text
    assert named in text


def test_the_verdict_reports_leakage_from_pretraining() -> None:
    areas = {"a": (HIGH, LOW)}
    verdicts = [verdict(probed(areas, seen)) for seen in (0, 3, None)]
    assert "7 patients that the pretraining did not see" in verdicts[0]
    assert "7 patients, of which the pretraining saw 3" in verdicts[1]
    assert len(set(verdicts)) == 3


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    made = write_inputs(tmp_path_factory.mktemp("inputs"))
    (made.probe / "results.json").write_text(probed({"a": (HIGH, LOW)}).model_dump_json())
    return made


def unbroken(inputs: Inputs, folder: Path, until: int, change: float = 0.0) -> Path:
    """A run with the metrics of the first `until` steps, and with another loss in the last of these."""
    rows = [json.loads(line) for line in (inputs.run / "metrics.jsonl").read_text().splitlines()[:until]]
    rows[-1]["loss"] += change
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def by_name(text: str) -> dict[str, str]:
    return {line[:10].strip(): line[12:] for line in text.splitlines()}


def test_each_line_has_the_figures_of_its_folder(inputs: Inputs, tmp_path: Path) -> None:
    lines = by_name(shown(inputs.run, inputs.data, inputs.probe, unbroken(inputs, tmp_path / "whole", 350)))
    assert list(lines) == ["data", "rejected", "training", "resume", "health", "features", "verdict"]
    assert f"{VOLUMES + 7} series in: {VOLUMES} volumes" in lines["data"]
    assert lines["rejected"] == "7 series: 5 bone kernel, 2 missing slices"
    assert f"{STEPS} of {STEPS} steps" in lines["training"]
    assert "steps 1 to 300: stopped" in lines["training"]
    assert f"steps 301 to {STEPS}: done" in lines["training"]
    assert lines["resume"].startswith("exact: 350 steps")
    assert "50 of them after" in lines["resume"]
    assert "101 to 200" in lines["health"]
    assert "0.800 [0.750, 0.850]" in lines["features"]
    assert "0.600 [0.500, 0.700]" in lines["features"]
    assert lines["verdict"] == verdict(probed({"a": (HIGH, LOW)}))


@pytest.mark.parametrize("looked", [True, False])
def test_the_summary_has_the_retrieval_of_volumes(inputs: Inputs, tmp_path: Path, looked: bool) -> None:
    run = tmp_path / "run"
    shutil.copytree(inputs.run, run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [{name: value for name, value in row.items() if "retrieval" not in name} for row in rows]
    for step, retrieval in ((4, 0.25), (350, 0.5), (STEPS, 0.875)) if looked else ():
        rows[step - 1] |= {"retrieval": retrieval, "retrieval_chance": 0.03125}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    health = by_name(shown(run))["health"]
    assert ("25% at first, 88% at last (by chance 3%)" in health) == looked
    assert ("recognised by another view" in health) == looked


def test_a_resume_is_reported_exact_only_if_later_steps_are_equal(inputs: Inputs, tmp_path: Path) -> None:
    other = unbroken(inputs, tmp_path / "other", 350, change=1e-15)
    assert by_name(shown(inputs.run, unbroken=other))["resume"].startswith("NOT EXACT")
    short = unbroken(inputs, tmp_path / "short", 300)
    assert by_name(shown(inputs.run, unbroken=short))["resume"].startswith("not tested")


def test_the_command_ends_with_the_summary(inputs: Inputs, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    arguments = ["report", page, "--run", inputs.run, "--data", inputs.data, "--probe", inputs.probe]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    last = result.output.split("Summary\n")[1].splitlines()
    assert last[:-1] == shown(inputs.run, inputs.data, inputs.probe).splitlines()
    assert last[-1].endswith(str(page))


def test_a_damaged_result_is_named(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(FmctError, match=r"results\.json"):
        shown(inputs.run, probe=tmp_path)
