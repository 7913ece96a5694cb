"""Log lines of a command: its own progress, and only warnings of libraries."""

import logging
from collections.abc import Iterator

import pytest

from launch.commands.console import OURS, set_up_logging


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in OURS}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, its in levels.items():
        logging.getLogger(name).setLevel(its)


@pytest.mark.parametrize(("rank", "shown"), [(0, {"shards", "fmct_hpc"}), (3, set())])
def test_only_progress_of_this_package_is_printed(
    capsys: pytest.CaptureFixture[str], rank: int, shown: set[str]
) -> None:
    set_up_logging(rank)
    for name in ("shards.derive", "fmct_hpc.retrieval.run", "faiss.loader", "openjpeg.encode"):
        logging.getLogger(name).info("progress of %s", name)
        logging.getLogger(name).warning("trouble of %s", name)
    lines = capsys.readouterr().err.splitlines()
    assert {line.split()[-1].split(".")[0] for line in lines if "progress" in line} == shown
    assert sum("trouble" in line for line in lines) == 4
