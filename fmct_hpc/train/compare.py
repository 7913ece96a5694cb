"""Compare the recorded losses of two runs bit by bit."""

from pathlib import Path

from fmct_hpc.objective.registry import PARTS
from fmct_hpc.train.figures import recorded
from shards.errors import FmctError

COMPARED = ("loss", *(part.name for part in PARTS), "gradient_norm")


def compare(first: Path, second: Path) -> int:
    """Compare the metrics.jsonl of two run folders; return the number of common steps.

    Metrics hold each float's shortest exact decimal form, so equal text means equal bits. Raises FmctError
    that names the first step and figure that differ, or where no step is common.
    """
    ours, theirs = _by_step(first), _by_step(second)
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        raise FmctError(f"{first} and {second}: no step is in both runs' metrics.jsonl")
    for step in common:
        for name in COMPARED:
            if ours[step].get(name) != theirs[step].get(name):
                values = f"{ours[step].get(name)!r} and {theirs[step].get(name)!r}"
                raise FmctError(f"{first} and {second}: {name} differs at step {step}: {values}")
    return len(common)


def _by_step(run: Path) -> dict[int, dict[str, float]]:
    path = run / "metrics.jsonl"
    try:
        return {int(row["step"]): row for row in recorded(run)}
    except FileNotFoundError:
        raise FmctError(f"{path}: missing; is {run} a run folder of `fmct train`?") from None
