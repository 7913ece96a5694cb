"""The table of faults in docs/operations.md, printed from the tests' own records."""

from collections.abc import Iterator
from typing import Protocol

import pytest

from fmct_hpc.train.attempts import Attempt


class Table(Protocol):
    """Adds a fault's row: its name, the attempts, further notes."""

    def __call__(self, fault: str, starts: list[Attempt], what: str = "") -> None: ...


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    rows: list[str] = []

    def add(fault: str, starts: list[Attempt], what: str = "") -> None:
        if not starts:
            rows.append(f"| {fault} | {what} | | |")
            return
        lost = sum(start.lost_steps or 0 for start in starts)
        outcome = "; ".join(
            f"{start.cause}: {start.detail}" if start.detail else f"{start.cause}" for start in starts
        )
        rows.append(f"| {fault} | {what or outcome} | {len(starts)} | {lost} |")

    yield add
    print("\n| fault | what happened | starts | steps lost |\n|---|---|---|---|", *rows, sep="\n")
