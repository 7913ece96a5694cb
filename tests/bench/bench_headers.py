"""Headers, a scan and a selection compared with another commit (docs/benchmarks.md).

    python tests/bench/bench_headers.py --against TREE

The files are those of bench_scan.py, with the header of a real CT (../shared). TREE is a work tree (`git
worktree add`), whose code runs alternately with this one under the same interpreter; CPU time, minimum of
rounds.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench_scan import make_files
from bench_start import OURS, cpu_seconds
from markdown_table import heading, row
from tiny import parsed

HEADERS = """
import sys, time
from pathlib import Path
from preprocess.dicom.header import read_header
from preprocess.dicom.sources import file_source

paths = [path for path in sorted(Path(sys.argv[1]).rglob("*")) if path.is_file()]
files = [(path, file_source(path, path.stat())) for path in paths]
spent = []
for _ in range(3):
    before = time.process_time()
    for path, source in files:
        with path.open("rb") as file:
            assert read_header(file, source)
    spent.append(time.process_time() - before)
print(min(spent) / len(files))
"""
"""Prints the seconds that opening a file and reading its header takes."""


def header_seconds(tree: Path, files: Path) -> float:
    return float(
        subprocess.run(
            [sys.executable, "-P", "-c", HEADERS, str(files)],
            env={**os.environ, "PYTHONPATH": str(tree)},
            check=True,
            capture_output=True,
        ).stdout
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", type=Path, required=True)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parsed(parser, arguments, files=20, rounds=1)
    trees = [OURS, options.against.resolve()]
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder) / "files", options.files)
        key = Path(folder) / "hmac.key"
        key.write_text("0123456789abcdef" * 4)
        key.chmod(0o600)
        figures: dict[str, list[list[float]]] = {
            "header": [],
            "scan": [],
            "select": [],
            "scan and select": [],
        }
        for round_ in range(options.rounds):
            per_header = [1000 * header_seconds(tree, files) for tree in trees]
            catalogs = [Path(folder) / f"{round_}-{number}.parquet" for number in range(len(trees))]
            scans = [
                cpu_seconds(tree, ["scan", str(files), "--catalog", str(catalog), "--workers", "1"])
                for tree, catalog in zip(trees, catalogs, strict=True)
            ]
            selects = [
                cpu_seconds(tree, ["select", str(catalog), f"key_file={key}"])
                for tree, catalog in zip(trees, catalogs, strict=True)
            ]
            both = [sum(pair) for pair in zip(scans, selects, strict=True)]
            rounds = (per_header, scans, selects, both)
            for known, figure in zip(figures.values(), rounds, strict=True):
                known.append(figure)
        heading("work", "CPU", "of the other", "other")
        for name, values in figures.items():
            ours, theirs = (min(column) for column in zip(*values, strict=True))
            unit = "ms" if name == "header" else "s"
            row(name, f"{ours:.3f} {unit}", f"{ours / theirs:.2f}", f"{theirs:.3f} {unit}")


if __name__ == "__main__":
    main()
