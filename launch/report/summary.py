"""A summary of a report for the screen, in a dozen lines, each computed from the folders it covers."""

from pathlib import Path

from pydantic import ValidationError

from fmct_hpc.probe.run import ProbeResult, Row
from fmct_hpc.train.compare import compare
from launch.report.data import Data
from launch.report.training import Training
from shards.errors import FmctError
from shards.newer_version import read_error

HEAD = "logistic"
"""The classifier that determines the verdict: fixed in advance, regardless of the others' results."""
LINE = "{:<10}  {}"


def shown(
    run: Path, data: Path | None = None, probe: Path | None = None, unbroken: Path | None = None
) -> str:
    """Data and rejections, attempts and whether resuming was exact, health, pretrained vs untrained.

    run, data, probe: as for `report`; a sweep has no verdict. unbroken: another run folder, of the
    same training without interruption, whose losses are compared with those of `run`. Parts that are not
    given are omitted. Raises FmctError if a given input is missing.
    """
    training = Training(run)
    lines = [
        *(_data(Data(data)) if data else []),
        *_training(training),
        *(_resume(training, run, unbroken) if unbroken else []),
        ("health", _health(training)),
        *(_features(probe) if probe and (probe / "results.json").is_file() else []),
    ]
    return "\n".join(LINE.format(*line) for line in lines)


def _data(data: Data) -> list[tuple[str, str]]:
    summary = data.summary
    reasons = sorted(summary.rejected_by_reason.items(), key=lambda item: (-item[1], item[0]))
    refused = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in reasons)
    into = f"{summary.series} series in: {summary.volumes} volumes of {summary.patients} patients"
    joined = f", {summary.joined_series} series merged into others" if summary.joined_series else ""
    return [
        ("data", into + joined),
        ("rejected", f"{summary.rejected_series} series{': ' if refused else ''}{refused}"),
    ]


def _training(training: Training) -> list[tuple[str, str]]:
    attempts = [
        f"attempt {attempt.number}, steps {attempt.first_step} to {attempt.last_step}: {attempt.cause}"
        for attempt in training.attempts
        if attempt.steps
    ]
    done = f"{training.steps} of {training.config.run.steps} steps"
    return [("training", "; ".join([done, *attempts]))]


def _resume(training: Training, run: Path, unbroken: Path) -> list[tuple[str, str]]:
    """Whether the steps after the first interruption equal those of the uninterrupted run."""
    resumed = next((attempt.first_step for attempt in training.attempts[1:]), None)
    if resumed is None:
        return [("resume", "not tested: the run was never interrupted")]
    try:
        steps = compare(run, unbroken)
    except FmctError as error:
        return [("resume", f"NOT EXACT: {error}")]
    after = steps - resumed + 1
    if after <= 0:
        return [("resume", f"not tested: {unbroken} ends before step {resumed}, where the run resumed")]
    message = f"{steps} steps are bit-identical to those of the uninterrupted run"
    return [("resume", f"exact: {message}, {after} of them after resuming")]


def _health(training: Training) -> str:
    lasting = [
        *((alarm.sign, alarm.first, alarm.last) for alarm in training.alarms),
        *((alarm.sign.what, alarm.first, alarm.last) for alarm in training.unlearned),
    ]
    signs = "; ".join(f"{sign} (steps {first} to {last})" for sign, first, last in lasting)
    text = signs or "no signs of collapse or of not learning"
    evaluations = [row for row in training.metrics if "retrieval" in row]
    if evaluations:
        first, last, chance = (
            evaluations[0]["retrieval"],
            evaluations[-1]["retrieval"],
            evaluations[-1]["retrieval_chance"],
        )
        text += f"; volumes recognised by another view: {first:.0%} at first, {last:.0%} at last"
        text += f" (by chance {chance:.0%})"
    return text


def _features(probe: Path) -> list[tuple[str, str]]:
    file = probe / "results.json"
    try:
        result = ProbeResult.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise read_error(file, error, "damaged, or written by another version; probe again") from None
    pairs = _pairs(result.rows)
    if not pairs:
        return []
    width = max(len(task) for task in pairs)
    lines = [
        ("features" if not number else "", f"{task:<{width}}  {_gain(trained, untrained)}")
        for number, (task, (trained, untrained)) in enumerate(pairs.items())
    ]
    return [*lines, ("verdict", verdict(result))]


def _pairs(rows: list[Row]) -> dict[str, tuple[Row, Row]]:
    """The trained and the untrained encoder's in-distribution rows, by task."""
    own = {(row.task, row.encoder): row for row in rows if (row.head, row.split) == (HEAD, "id")}
    tasks = dict.fromkeys(task for task, _ in own)
    return {task: (own[task, "trained"], own[task, "untrained"]) for task in tasks}


def _gain(trained: Row, untrained: Row) -> str:
    areas = (
        f"{name} {value:.3f} [{low:.3f}, {high:.3f}]"
        for name, (value, low, high) in (("pretrained", trained.auc), ("untrained", untrained.auc))
    )
    gain, low, high = trained.gain
    word = _disjoint(trained, untrained)
    return f"{', '.join(areas)}, gain {gain:+.3f} [{low:+.3f}, {high:+.3f}]{f': {word}' if word else ''}"


def _disjoint(trained: Row, untrained: Row) -> str:
    """Whether the trained encoder's interval lies entirely above or below the other."""
    if trained.auc[1] > untrained.auc[2]:
        return "above"
    return "below" if trained.auc[2] < untrained.auc[1] else ""


def verdict(result: ProbeResult) -> str:
    """The findings for which the intervals of pretrained and untrained features do not overlap."""
    pairs = _pairs(result.rows)
    words = {task: _disjoint(*pair) for task, pair in pairs.items()}
    above, below = ([task for task, word in words.items() if word == wanted] for wanted in ("above", "below"))
    level = f"{result.confidence:.0%} intervals"
    seen = {
        None: "; it is unknown which of them the pretraining saw",
        0: " that the pretraining did not see",
    }.get(result.pretrained_patients, f", of which the pretraining saw {result.pretrained_patients}")
    tested = f"on {result.patients} patients{seen}"
    differences = [
        f"{side} the untrained model, {level} disjoint, for {len(tasks)} of {len(pairs)} findings "
        f"({', '.join(tasks)})"
        for side, tasks in (("above", above), ("below", below))
        if tasks
    ]
    if not differences:
        return f"pretraining shows no gain: {level} overlap for all {len(pairs)} findings, {tested}"
    word = "harms" if below else "helps"
    return f"pretraining {word}: {'; '.join(differences)}, {tested}"
