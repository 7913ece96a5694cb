"""Progress of a training."""

from pathlib import Path

from fmct_hpc.train.attempts import attempts
from fmct_hpc.train.checkpoint import newest_step
from shards.progress import Progress
from shards.share import WHOLE, Share


def progress(run: Path, share: Share = WHOLE) -> Progress:
    """The newest checkpoint's step, of run.steps in the newest attempt's configuration."""
    newest = attempts(run)[-1:]
    total = newest[0].configuration["run"]["steps"] if newest else None
    return Progress(newest_step(run), total, unit="step")
