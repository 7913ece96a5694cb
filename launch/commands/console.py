"""Console output: log lines that are readable in a Slurm .out file, and progress bars on a terminal."""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from types import TracebackType

from fmct_hpc.train.pace import duration
from launch.screen import PlainFormatter, echo

LINE_EVERY_SECONDS = 10.0
"""Interval of progress lines if the output is not a terminal."""

log = logging.getLogger("fmct")

OURS = ("fmct", "fmct_hpc", "launch", "preprocess", "shards")
"""Loggers whose progress is shown; of libraries' (faiss, OpenJPEG, matplotlib) only warnings are."""


def set_up_logging(rank: int = 0) -> None:
    """Log to standard error with timestamps: progress on rank 0, warnings and errors on all ranks."""
    if isinstance(sys.stdout, TextIOWrapper):  # as on standard error: no unencodable name ends a command
        sys.stdout.reconfigure(errors="backslashreplace")
    where = f" rank {rank}" if rank else ""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        PlainFormatter(f"%(asctime)s %(levelname).1s{where} %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)
    sys.excepthook = _show_defect


def _show_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback through `echo`, since its messages may quote files."""
    echo("".join(traceback.format_exception(kind, error, trace)).rstrip(), err=True)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback (done, total): a bar on a terminal, else a log line every ten seconds."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _LineProgress(title)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _LineProgress:
    def __init__(self, title: str) -> None:
        self.title = title
        self.last = time.monotonic()
        self.start: tuple[float, int, int] | None = None
        """The current count: its start time, the number done at the start, and the total."""

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.start is None or total != self.start[2] or done < self.start[1]:
            self.start = now, done, total
        if done == total or now - self.last >= LINE_EVERY_SECONDS:
            self.last = now
            began, before, _ = self.start
            left = (now - began) / (done - before) * (total - done) if done > before else 0.0
            eta = f", ETA {duration(left)}" if left else ""
            log.info("%s: %d of %d%s", self.title, done, total, eta)
