"""Reading Parquet tables for a report, of this version or an earlier one."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from launch.report.document import Bullets
from shards.errors import FmctError, raise_refusal


def read_rows(path: Path, schema: pa.Schema, command: str) -> list[dict[str, Any]]:
    """The rows of a table that `command` wrote; columns that it lacks are null.

    Raises FmctError if the file is missing or is not such a table.
    """
    try:
        table = pq.read_table(path)
        for column in schema:
            if column.name not in table.column_names:
                table = table.append_column(column, pa.nulls(table.num_rows, column.type))
        return list(table.select(schema.names).cast(schema).to_pylist())
    except FileNotFoundError:
        raise FmctError(f"{path}: missing; `{command}` writes it") from None
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise_refusal(error, path)
        raise FmctError(f"{path}: damaged, or of another version; run `{command}` again") from None


def without_figures(rows: Iterable[Mapping[str, Any]]) -> list[Bullets]:
    """Tasks without figures, each reason once; empty if all have figures."""
    reasons = dict.fromkeys(f"{row['task']}: {row['reason']}." for row in rows if row["reason"])
    return [Bullets(tuple(reasons))] if reasons else []
