"""Peak memory of preprocessing as the archive grows: `python tests/bench/bench_preprocess_memory.py`.

Series of 20 small slices, a study each, so that the number of files and not their pixels is what grows. The
command's own process (plan, ledger, collect) and its worker are told apart.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from dicom_files import axial
from preprocess_export import KEY, write_series

from preprocess import run
from preprocess.config import GridConfig, OutputConfig, PreprocessConfig
from preprocess.scan.run import scan

SLICES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    print("| files | series | the command, MiB | its worker, MiB | output, MiB |\n|---|---|---|---|---|")
    for files in parser.parse_args().files:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for study in range(files // SLICES):
                acquisition = axial(slices=SLICES, gap=6.0, start=(-70 + study % 9, -60, 0))
                write_series(folder / "dicom", study, 1, acquisition)
            (folder / "hmac.key").write_text(KEY)
            (folder / "hmac.key").chmod(0o600)
            scan(folder / "dicom", folder / "catalog.parquet", workers=2)
            done = subprocess.run(
                [sys.executable, __file__, str(folder)], capture_output=True, text=True, check=True
            )
            told = json.loads(done.stdout.splitlines()[-1])
            row = (files, files // SLICES, told["command"], told["worker"], told["output"])
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


def preprocess(folder: Path) -> None:
    """In a fresh process, for its peak memory."""
    config = PreprocessConfig(
        key_file=folder / "hmac.key",
        workers=1,
        grid=GridConfig(spacing_mm=(2, 2, 2)),
        output=OutputConfig(formats=("zarr",), shard_mib=16),
    )
    run.preprocess(folder / "catalog.parquet", folder / "out", config)
    peaks = {
        name: round(resource.getrusage(who).ru_maxrss / 1024)
        for name, who in (("command", resource.RUSAGE_SELF), ("worker", resource.RUSAGE_CHILDREN))
    }
    output = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
    print(json.dumps({**peaks, "output": round(output / 2**20)}))


if __name__ == "__main__":
    if len(sys.argv) == 2 and Path(sys.argv[1]).is_dir():
        preprocess(Path(sys.argv[1]))
    else:
        main()
