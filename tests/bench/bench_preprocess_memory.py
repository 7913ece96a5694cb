"""Peak memory of preprocessing as the archive grows, in this version of the code and in another.

    git worktree add /tmp/other 872b9ad
    OMP_NUM_THREADS=1 python tests/bench/bench_preprocess_memory.py --against /tmp/other

Series of 20 small slices, one per study, so that the number of files grows rather than their pixels. The
command's process (plan, ledger, collect) and its worker are measured separately.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from markdown_table import heading, row
from memory_side import preprocess
from tiny import parsed

sys.path.insert(0, str(Path(__file__).parents[1]))
from dicom_files import axial
from preprocess_export import KEY, write_series

from preprocess.scan.run import scan

OURS = Path(__file__).parents[2]
SIDE = Path(__file__).parent / "memory_side.py"
SLICES = 20


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="the other version's folder")
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--apart", action=argparse.BooleanOptionalAction, default=True, help="in processes")
    options = parsed(parser, arguments, files=[20], apart=False)
    other = ["other's command, MiB", "other's worker, MiB", "ratios"] if options.against else []
    heading("files", "series", "the command, MiB", "its worker, MiB", "output, MiB", *other)
    for files in options.files:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make(folder, files)
            if not options.apart:
                scan(folder / "dicom", folder / "catalog.parquet", workers=1)
                ours = preprocess(folder, folder / "catalog.parquet", folder / "out")
            else:
                ours = in_processes(OURS, folder)
            cells: list[object] = [ours["command"], ours["worker"], ours["output"]]
            if options.against:
                theirs = in_processes(options.against.resolve(), folder)
                cells += [theirs["command"], theirs["worker"]]
                cells.append(", ".join(f"{ours[n] / theirs[n]:.2f}" for n in ("command", "worker")))
            row(files, files // SLICES, *cells)


def make(folder: Path, files: int) -> None:
    """An export of so many files, and a key."""
    for study in range(files // SLICES):
        acquisition = axial(slices=SLICES, gap=6.0, start=(-70 + study % 9, -60, 0))
        write_series(folder / "dicom", study, 1, acquisition)
    (folder / "hmac.key").write_text(KEY)
    (folder / "hmac.key").chmod(0o600)


def in_processes(tree: Path, folder: Path) -> dict[str, int]:
    """`memory_side.preprocess` by a version of the code, in fresh processes, for their peak memory."""
    with tempfile.TemporaryDirectory() as place:
        for step in ("scan", "preprocess"):
            command = [sys.executable, str(SIDE), str(tree), step, str(folder), place]
            result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tree)
    return json.loads(result.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
