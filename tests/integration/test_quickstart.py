"""launch/quickstart.sh in the tests' environment: its final statements must be true."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from documents import REPOSITORY
from forked_commands import forked_fmct

from fmct_hpc.probe.run import ProbeResult
from fmct_hpc.train.attempts import attempts
from launch.report.summary import shown, verdict
from shards import Dataset

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The script's folder and output.

    Its trainings start as users', since one is killed with its process group; other commands are forked.
    """
    checkout = tmp_path_factory.mktemp("checkout")
    (checkout / "launch").mkdir()
    for name in ("launch/recipes", "tests"):
        (checkout / name).symlink_to(REPOSITORY / name)
    script = checkout / "launch/quickstart.sh"
    script.write_bytes((REPOSITORY / "launch/quickstart.sh").read_bytes())
    (checkout / "launch/environment.sh").write_text("exit 0\n")
    fmct = checkout / ".venv/bin/fmct"
    fmct.parent.mkdir(parents=True)
    anew, forked = shlex.join([sys.executable, "-m", "launch.cli"]), shlex.join(forked_fmct())
    fmct.write_text(f'#!/bin/sh\n[ "$1" = train ] && exec {anew} "$@"\nexec {forked} "$@"\n')
    fmct.chmod(0o755)
    run = subprocess.run(
        ["bash", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1400,
    )
    assert run.returncode == 0, run.stdout
    return checkout / "demo", run.stdout


@pytest.fixture(scope="module")
def result(finished: tuple[Path, str]) -> ProbeResult:
    return ProbeResult.model_validate_json((finished[0] / "probe/results.json").read_bytes())


def test_pretraining_beats_the_untrained_model_with_disjoint_intervals(result: ProbeResult) -> None:
    rows = {(row.task, row.encoder): row.auc for row in result.rows if row.head == "logistic"}
    tasks = {task for task, _ in rows}
    assert len(tasks) == 6
    assert any(rows[task, "trained"][1] > rows[task, "untrained"][2] for task in tasks)
    assert not any(rows[task, "trained"][2] < rows[task, "untrained"][1] for task in tasks)


def test_the_probe_tests_on_patients_unseen_in_pretraining(
    finished: tuple[Path, str], result: ProbeResult
) -> None:
    folder, _ = finished
    seen, tested = (
        set(Dataset.open(folder / "parts" / part).index["patient_key"].to_pylist())
        for part in ("pretraining", "held_out")
    )
    assert not seen & tested
    assert result.pretrained_patients == 0
    assert {row["data"]["content_digest"] for row in _attempts(folder)} == {
        Dataset.open(folder / "parts/pretraining").content_digest()
    }


def _attempts(folder: Path) -> list[dict[str, dict[str, str]]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "run/attempts").glob("????.json"))]


def test_the_run_was_killed_and_resumed(finished: tuple[Path, str]) -> None:
    first, second = attempts(finished[0] / "run")
    assert (first.cause, second.cause) == ("killed", "done")
    assert second.first_step > 1
    assert second.last_step == second.configuration["run"]["steps"]


def test_the_output_ends_with_the_summary_of_fmct_report(
    finished: tuple[Path, str], result: ProbeResult
) -> None:
    folder, output = finished
    last = output.split("Summary\n")[1].splitlines()
    names = [line.split()[0] for line in last if not line.startswith(" ")]
    assert names == [
        "data",
        "rejected",
        "training",
        "resume",
        "health",
        "features",
        "verdict",
        "report",
    ]
    summary = shown(folder / "run", folder / "data", folder / "probe", folder / "unbroken").splitlines()
    # The paths in them are the script's own.
    assert last[:-1] == summary
    assert verdict(result) in last[-2]
    assert "pretraining helps" in last[-2]
    assert re.search(r"^resume +exact: 60 steps", "\n".join(last), re.MULTILINE)
    assert last[-1].split()[-1] == "demo/report.html"
    assert (folder / "report.html").stat().st_size > 10**5


def test_no_line_is_a_warning(finished: tuple[Path, str]) -> None:
    """A line of the log has its level's letter after the time."""
    _, output = finished
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d I ", output, re.MULTILINE)
    assert not re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [^I] .*", output, re.MULTILINE)
