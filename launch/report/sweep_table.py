"""A sweep's results as a table on the terminal, with the reasons for missing figures."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from launch.report.figure_names import time
from launch.report.results import KindResult, Result, averaged, labels, of_kinds

MAX_ROWS = 60
"""Maximum number of rows; results.parquet has all."""
OF_KINDS = ("task", "kind", "encoder", "method", "features", "labels", "tested", "n", "figure", "value")
HEADER = ("task", "encoder", "method", "features", "labels", "tested", "n", "pos", "AUC", "balanced accuracy")


def printed(out: Path) -> str:
    """The table of `out`/results.parquet, averaged over seeds, and one line per reason."""
    rows = pq.read_table(out / "results.parquet").to_pylist()
    results = averaged(rows)
    lines = _aligned([HEADER, *map(_cells, results[:MAX_ROWS])]) if results else []
    if len(results) > MAX_ROWS:
        lines.append(f"... and {len(results) - MAX_ROWS} more in {out / 'results.parquet'}")
    others = of_kinds(rows)
    lines += _aligned([OF_KINDS, *map(_of_kind, others[:MAX_ROWS])]) if others else []
    if len(others) > MAX_ROWS:
        lines.append(f"... and {len(others) - MAX_ROWS} more in {out / 'results.parquet'}")
    return "\n".join([*lines, *_reasons(rows)])


def _of_kind(result: KindResult) -> tuple[str, ...]:
    value, low, high = result.value
    figure, shown = result.figure + time(result.at), f"{value:z.3f} [{low:z.3f}, {high:z.3f}]"
    return (
        *(result.task, result.kind, result.encoder, result.method, result.features, result.labels),
        *(result.tested, str(result.n), figure, shown),
    )


def _cells(result: Result) -> tuple[str, ...]:
    area, low, high = result.auc
    balanced = f"{result.balanced_accuracy:.3f}"
    if result.threshold_reason:
        balanced = f"none: {result.threshold_reason}"
    return (
        *(result.task, result.encoder, result.method, result.features, result.labels, result.tested),
        *(str(result.n), str(result.positives), f"{area:.3f} [{low:.3f}, {high:.3f}]", balanced),
    )


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _reasons(rows: list[dict[str, Any]]) -> list[str]:
    without = Counter(
        (row["task"], labels(row), row.get("reason_code") or "", row["reason"])
        for row in rows
        if row["reason"]
    )
    return [
        f"{task}, labels {share}: {count} without figures, {f'{code}: ' if code else ''}{reason}"
        for (task, share, code, reason), count in without.items()
    ]
