"""Rows of a Markdown table on standard output, as docs/benchmarks.md holds them (`run.py`)."""


def heading(*columns: str) -> None:
    """Begin a table, apart from what was printed before."""
    print()
    row(*columns)
    row(*["---"] * len(columns))


def row(*cells: object) -> None:
    """One row, on the screen at once."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
