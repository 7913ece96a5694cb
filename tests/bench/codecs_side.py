"""Runs preprocessing tasks with the code of a folder, for `bench_codecs.py`; arguments: TREE and WORK.

Reads one folder of a series per line, and writes the task's CPU seconds, and the first time CRC-32 and source
digest. It calls only functions that exist in every version since 872b9ad.
"""

import json
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, sys.argv[1])

from preprocess import run
from preprocess.config import OutputConfig, PreprocessConfig
from preprocess.scan.run import scan
from shards import Dataset, crc32

logging.disable(logging.WARNING)


def main() -> None:
    work = Path(sys.argv[2])
    key_file = work / "hmac.key"
    key_file.write_text("0123456789abcdef" * 4)
    key_file.chmod(0o600)
    config = PreprocessConfig(key_file=key_file, workers=1, output=OutputConfig(formats=("zarr",)))
    for number, line in enumerate(sys.stdin):
        series = Path(line.rstrip("\n"))
        catalog, made = work / f"{series.name}.parquet", ""
        first = not catalog.exists()
        if first:
            scan(series, catalog)
        out = work / f"{number}"
        before = time.process_time()
        run.plan(catalog, out, config)
        volumes = run.run_task(catalog, out, 0, config).volumes
        seconds = time.process_time() - before
        assert volumes == 1
        if first:
            run.collect(out, config)
            dataset = Dataset.open(out / "zarr")
            made = f"{crc32(dataset.read(0)):08x} {dataset.record(0).source_digest}"
        print(json.dumps({"seconds": seconds, "made": made}), flush=True)


if __name__ == "__main__":
    main()
