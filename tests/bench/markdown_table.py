"""Prints the rows of a Markdown table in the format of docs/benchmarks.md (`run.py`)."""


def heading(*columns: str) -> None:
    """Start a table, separated from earlier output."""
    print()
    row(*columns)
    row(*["---"] * len(columns))


def row(*cells: object) -> None:
    """Print one row immediately."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
