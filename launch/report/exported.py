"""The report's section on exported classifiers and their predictions for other scans."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from fmct_hpc.classifier.folder import read_classifier
from fmct_hpc.classifier.table import SCHEMA, TABLE
from launch.report.document import Bullets, Section
from launch.report.rows import read_rows


def exported_section(classifiers: Sequence[Path], predictions: Path | None) -> Section:
    """One line per classifier, and one for a table of predictions; without paths and keys of scans.

    Raises FmctError as `read_classifier` does, and if the table is missing.
    """
    lines = []
    for folder in classifiers:
        record, _, _ = read_classifier(folder)
        labels = ", ".join(
            f"{task.task} ({task.train:,} training and {task.validation:,} validation volumes)"
            for task in record.tasks
        )
        lines.append(
            f"Exported classifier on encoder {record.encoder} ({record.encoder_digest[:12]}), "
            f"{record.method}: {labels}."
        )
    if predictions is not None:
        schema = pa.schema([SCHEMA.field(name) for name in ("key", "task", "reason", "roles")])
        rows = read_rows(predictions / TABLE, schema, "fmct predict")
        scans = {row["key"] for row in rows if row["task"]}
        refused = sum(row["reason"] is not None for row in rows)
        tasks = ", ".join(dict.fromkeys(row["task"] for row in rows if row["task"]))
        unit = "studies" if any(row["roles"] is not None for row in rows) else "scans"
        lines.append(f"Predictions for {len(scans):,} {unit} ({tasks}); {refused:,} were refused.")
    return Section("Exported classifiers", (Bullets(tuple(lines)),))
