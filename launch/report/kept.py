"""The report's lines about kept classifiers, and about what they said of other scans."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from fmct_hpc.classifier.kept import read_classifier
from fmct_hpc.classifier.table import SCHEMA, TABLE
from launch.report.document import Bullets, Section
from launch.report.rows import read_rows


def kept_section(classifiers: Sequence[Path], predictions: Path | None) -> Section:
    """A line a classifier, and one about a table of predictions; no path and no scan is named.

    Raises FmctError as `read_classifier` does, and where there is no table.
    """
    said = []
    for folder in classifiers:
        record, _, _ = read_classifier(folder)
        labels = ", ".join(
            f"{task.task} ({task.train:,} volumes to fit, {task.validation:,} to choose by)"
            for task in record.tasks
        )
        said.append(
            f"Kept classifier of encoder {record.encoder} ({record.encoder_digest[:12]}), {record.method}: "
            f"{labels}."
        )
    if predictions is not None:
        wanted = pa.schema([SCHEMA.field(name) for name in ("key", "task", "reason", "roles")])
        rows = read_rows(predictions / TABLE, wanted, "fmct predict")
        scans = {row["key"] for row in rows if row["task"]}
        refused = sum(row["reason"] is not None for row in rows)
        tasks = ", ".join(dict.fromkeys(row["task"] for row in rows if row["task"]))
        what = "studies" if any(row["roles"] is not None for row in rows) else "scans"
        said.append(f"Predictions for {len(scans):,} {what} ({tasks}); {refused:,} were refused.")
    return Section("Kept classifiers", (Bullets(tuple(said)),))
