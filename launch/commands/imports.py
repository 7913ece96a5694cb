"""The work of `fmct import`: a catalog of the table's files, and preprocessing from it."""

import tempfile
from pathlib import Path

from launch.commands.console import progress
from launch.screen import echo
from preprocess import run
from preprocess.config import PreprocessConfig
from preprocess.imports.catalog import TableFormat, import_table
from shards.output_paths import require_folder


def run_import(
    table: Path,
    out: Path | None,
    catalog: Path | None,
    format: TableFormat,
    root: Path | None,
    settings: PreprocessConfig | None,
) -> None:
    """Write the catalog of `table` (a private temporary one if `catalog` is None), and with `out` the shards.

    settings: required with `out`. Raises FmctError as `import_table` and `preprocess.run.preprocess` do.
    """
    if out is not None:
        require_folder(out, table)
    with tempfile.TemporaryDirectory(prefix="fmct-") as private:
        place = catalog or Path(private) / "catalog.parquet"
        with progress("import") as update:
            summary = import_table(table, place, format, root, update)
        echo(f"{catalog or table}: {summary}")
        if out is None or settings is None:
            return
        with progress("preprocess") as update:
            echo(f"{out}: {run.preprocess(place, out, settings, update)}")
