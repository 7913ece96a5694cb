"""Scans or preprocesses with the code of a folder, for `bench_preprocess_memory.py`.

Arguments: TREE, `scan` or `preprocess`, FOLDER, and a folder for the results. Prints the peaks as JSON. It
calls only functions that exist in every version since 872b9ad.
"""

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

from preprocess import run
from preprocess.config import GridConfig, OutputConfig, PreprocessConfig
from preprocess.scan.run import scan
from shards import parallel

stop: Callable[[], None] = getattr(parallel, "stop_server", lambda: None)
"""So that the workers' peak is known; before, each was a child of the command's process."""


def preprocess(folder: Path, catalog: Path, out: Path) -> dict[str, int]:
    """Peaks of this process and of its workers, and the output's size, MiB."""
    config = PreprocessConfig(
        key_file=folder / "hmac.key",
        workers=1,
        grid=GridConfig(spacing_mm=(2, 2, 2)),
        output=OutputConfig(formats=("zarr",), shard_mib=16),
    )
    run.preprocess(catalog, out, config)
    stop()
    peaks = {
        name: round(resource.getrusage(usage).ru_maxrss / 1024)
        for name, usage in (("command", resource.RUSAGE_SELF), ("worker", resource.RUSAGE_CHILDREN))
    }
    output = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {**peaks, "output": round(output / 2**20)}


def main(step: str, folder: Path, place: Path) -> None:
    catalog = place / "catalog.parquet"
    if step == "scan":
        scan(folder / "dicom", catalog, workers=2)
    else:
        print(json.dumps(preprocess(folder, catalog, place / "out")))


if __name__ == "__main__":
    main(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
