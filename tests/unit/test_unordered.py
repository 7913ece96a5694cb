"""Worker processes get their function once for any number of arguments."""

import os
from pathlib import Path

from shards.parallel import unordered


class Opened:
    """Records each unpickling, as a dataset opens then."""

    def __init__(self, notes: Path):
        self.notes = notes

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return opened, (self.notes,)

    def __call__(self, number: int) -> tuple[int, int]:
        return number * number, os.getpid()


def opened(notes: Path) -> Opened:
    with notes.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return Opened(notes)


def test_a_function_is_unpickled_once_in_each_worker(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    actual = list(unordered(Opened(notes), range(12), 2))
    assert sorted(square for square, _ in actual) == [number**2 for number in range(12)]
    processes = notes.read_text().split()
    assert len(processes) == len(set(processes)) <= 2
    assert {str(process) for _, process in actual} <= set(processes)
