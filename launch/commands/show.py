"""`fmct show`: print the rows of a Parquet table."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.screen import echo
from shards.errors import FmctError, raise_refusal

if TYPE_CHECKING:
    import pyarrow.parquet as pq

BATCH_ROWS = 1024
"""Rows in memory at a time; a row of a catalog holds all instances of a series."""


def show(
    table: Annotated[Path, typer.Argument(help="A Parquet file written by any command.")],
    columns: Annotated[
        str | None, typer.Option(help="Comma-separated column names; all columns if not given.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Only rows with this value, as displayed. Repeatable."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Maximum number of rows.")] = 20,
    schema: Annotated[bool, typer.Option("--schema", help="Show column names and types instead.")] = False,
) -> None:
    """Print the rows of a Parquet table.

    The output is a table on a terminal, and otherwise tab-separated text with a header. A catalog and its
    table of rejected files contain identifiers; all other tables contain only keys.
    """
    file = _opened(table)
    known = file.schema_arrow.names
    if schema:
        _print(["column", "type"], [[name, str(file.schema_arrow.field(name).type)] for name in known])
        return
    wanted = columns.split(",") if columns else known
    conditions = [_condition(given) for given in where or ()]
    for name in [*wanted, *(name for name, _ in conditions)]:
        if name not in known:
            raise FmctError(f"{table}: no column {name}; columns are {', '.join(known)}")
    found = []
    for row in _rows(file, table, list(dict.fromkeys([*wanted, *(name for name, _ in conditions)]))):
        if all(_text(row[name]) == value for name, value in conditions):
            found.append([_text(row[name]) for name in wanted])
            if len(found) == rows:
                break
    _print(wanted, found)
    shown = f"{len(found)} of {file.metadata.num_rows} rows"
    echo(f"{table}: {shown}" + ("; there may be more, see --rows" if len(found) == rows else ""), err=True)


def _opened(path: Path) -> "pq.ParquetFile":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise FmctError(f"{path}: no such file; give a Parquet file of any command") from None
    except (OSError, pa.ArrowException) as error:
        raise_refusal(error, path)
        raise FmctError(f"{path}: not a Parquet file") from None


def _rows(file: "pq.ParquetFile", path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise_refusal(error, path)
        raise FmctError(f"{path}: damaged ({error})") from None


def _condition(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals:
        raise FmctError(f"--where {given}: expected COLUMN=VALUE")
    return name, value


def _text(value: Any) -> str:
    """The displayed value: null as empty, numbers with six digits, the first three elements of a list."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        more = f", ... ({len(value)})" if len(value) > 3 else ""
        return "[" + ", ".join(_text(inner) for inner in value[:3]) + more + "]"
    return str(value)


def _print(columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        for row in [columns, *rows]:
            echo("\t".join(" ".join(value.split()) for value in row))
        return
    from launch.tables import PlainTable

    table = PlainTable(*columns)
    for row in rows:
        table.add_row(*row)
    console.print(table)
