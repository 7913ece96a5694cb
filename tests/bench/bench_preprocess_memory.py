"""Peak memory of preprocessing as the archive grows: `python tests/bench/bench_preprocess_memory.py`.

Series of 20 small slices, one per study, so that the number of files grows rather than their pixels. The
command's process (plan, ledger, collect) and its worker are measured separately.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from markdown_table import heading, row
from tiny import parsed

sys.path.insert(0, str(Path(__file__).parents[1]))
from dicom_files import axial
from preprocess_export import KEY, write_series

from preprocess import run
from preprocess.config import GridConfig, OutputConfig, PreprocessConfig
from preprocess.scan.run import scan

SLICES = 20


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--apart", action=argparse.BooleanOptionalAction, default=True, help="in processes")
    options = parsed(parser, arguments, files=[20], apart=False)
    heading("files", "series", "the command, MiB", "its worker, MiB", "output, MiB")
    for files in options.files:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for study in range(files // SLICES):
                acquisition = axial(slices=SLICES, gap=6.0, start=(-70 + study % 9, -60, 0))
                write_series(folder / "dicom", study, 1, acquisition)
            (folder / "hmac.key").write_text(KEY)
            (folder / "hmac.key").chmod(0o600)
            scan(folder / "dicom", folder / "catalog.parquet", workers=2 if options.apart else 1)
            result = in_a_process(folder) if options.apart else preprocess(folder)
            row(files, files // SLICES, result["command"], result["worker"], result["output"])


def in_a_process(folder: Path) -> dict[str, int]:
    """`preprocess` in a fresh process, for its peak memory."""
    command = [sys.executable, __file__, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def preprocess(folder: Path) -> dict[str, int]:
    """Peaks of this process and of its workers, and the output's size, MiB."""
    config = PreprocessConfig(
        key_file=folder / "hmac.key",
        workers=1,
        grid=GridConfig(spacing_mm=(2, 2, 2)),
        output=OutputConfig(formats=("zarr",), shard_mib=16),
    )
    run.preprocess(folder / "catalog.parquet", folder / "out", config)
    peaks = {
        name: round(resource.getrusage(usage).ru_maxrss / 1024)
        for name, usage in (("command", resource.RUSAGE_SELF), ("worker", resource.RUSAGE_CHILDREN))
    }
    output = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
    return {**peaks, "output": round(output / 2**20)}


if __name__ == "__main__":
    if len(sys.argv) == 2 and Path(sys.argv[1]).is_dir():
        print(json.dumps(preprocess(Path(sys.argv[1]))))
    else:
        main()
