"""Scans or preprocesses with the code of a folder, for `bench_preprocess_memory.py`.

Arguments: TREE, `scan` or `preprocess`, FOLDER. Prints the peaks as JSON. It calls only functions that exist
in every version since 872b9ad.
"""

import json
import resource
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


class WithoutPandas(MetaPathFinder):
    """Hides pandas, which only tests need: Arrow imports it if it is installed, and takes 36 MiB."""

    def find_spec(self, name: str, *_: Any) -> None:
        """Raises ImportError for pandas; leaves other modules to other finders."""
        if name == "pandas":
            raise ImportError(name)


if __name__ in ("__main__", "__mp_main__"):  # __mp_main__: in a worker
    sys.meta_path.insert(0, WithoutPandas())
    sys.path.insert(0, sys.argv[1])


def scan(dicom: Path, catalog: Path, workers: int) -> None:
    """Write the catalog of an export."""
    from preprocess.scan.run import scan

    scan(dicom, catalog, workers=workers)


def preprocess(folder: Path, catalog: Path, out: Path) -> dict[str, int]:
    """Peaks of this process and of its workers, and the output's size, MiB."""
    from preprocess import run
    from preprocess.config import GridConfig, OutputConfig, PreprocessConfig

    config = PreprocessConfig(
        key_file=folder / "hmac.key",
        workers=1,
        grid=GridConfig(spacing_mm=(2, 2, 2)),
        output=OutputConfig(formats=("zarr",), shard_mib=16),
    )
    run.preprocess(catalog, out, config)
    peaks = {
        name: round(resource.getrusage(usage).ru_maxrss / 1024)
        for name, usage in (("command", resource.RUSAGE_SELF), ("worker", resource.RUSAGE_CHILDREN))
    }
    output = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {**peaks, "output": round(output / 2**20)}


def main(tree: str, step: str, folder: Path) -> None:
    place = folder / Path(tree).name
    place.mkdir(exist_ok=True)
    catalog = place / "catalog.parquet"
    if step == "scan":
        scan(folder / "dicom", catalog, workers=2)
    else:
        print(json.dumps(preprocess(folder, catalog, place / "out")))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
