"""Every benchmark of tests/bench runs at a tiny size and prints tables of finite figures."""

import importlib
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[1] / "bench"
sys.path.append(str(BENCH))
OWN = {"codecs", "headers", "loader", "start"}
"""Those that compare with another work tree and have separate tests (test_bench_*.py)."""
ROWS = {
    "checkpoint": 3,
    "features": 6,
    "growth": 16,
    "label_kinds": 4,
    "memory": 1,
    "order": 8,
    "preprocess": 16,
    "preprocess_memory": 1,
    "retrieval": 3,
    "scale": 12,
    "scan": 7,
    "shards": 44,
    "step": 2,
    "sweep": 3,
    "vessels": 2,
    "views": 12,
}
"""Number of rows of figures that each prints, without headings."""


def test_no_benchmark_is_left_out() -> None:
    assert {path.stem.removeprefix("bench_") for path in BENCH.glob("bench_*.py")} == {*ROWS, *OWN}


@pytest.fixture(scope="module")
def left_as_it_was() -> Iterator[None]:
    """Restore the process state that benchmarks, which are programs, change."""
    before = os.environ.copy()
    yield
    os.environ.clear()
    os.environ.update(before)
    logging.disable(logging.NOTSET)
    torch.distributed.destroy_process_group()  # one rank, as for training benchmarks


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("left_as_it_was")
@pytest.mark.parametrize("name", ROWS)
def test_a_tiny_run_prints_finite_figures(
    name: str, capfd: pytest.CaptureFixture[str], shared_dicom: Callable[[str], Path]
) -> None:
    if name == "scan":
        shared_dicom("dcm_qa_ct")
    importlib.import_module(f"bench_{name}").main(["--tiny"])
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("| ")]
    headings = {number - 1 for number, line in enumerate(lines) if line.startswith("| ---")}
    rows = [line for number, line in enumerate(lines) if number not in headings and "| ---" not in line]
    assert len(rows) == ROWS[name]
    for one in rows:
        figures = [
            float(text) for text in re.findall(r"-?\d[\d.]*(?:e[+-]?\d+)?(?!\w)", one.replace(",", ""))
        ]
        assert figures
        assert all(map(math.isfinite, figures))
        assert not re.search(r"\b(?:nan|inf)\b", one)
