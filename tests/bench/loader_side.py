"""Makes views with the code of a folder, for `bench_loader.py`: arguments TREE, DATASET and data keys.

Reads the steps of a round per line, and writes the CPU seconds of its volumes, over all threads, and on
request the CRC-32 of the last batch's views.
"""

import json
import logging
import sys
import time
import zlib
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import torch

from fmct_hpc.data.loader import Batch, Loader

try:
    from fmct_hpc.data.config import DataConfig
except ModuleNotFoundError:  # where 872b9ad has it
    from fmct_hpc.config import DataConfig  # type: ignore[attr-defined]

BATCH = 4
logging.disable(logging.WARNING)


def seen(batch: Batch) -> int:
    """CRC-32 of all views, the global ones first."""
    given: object = batch.views
    if isinstance(given, torch.Tensor):  # as in 872b9ad, where all views were of one size
        views: list[torch.Tensor | None] = [given]
    else:
        views = [batch.views.whole, batch.views.local]
    return zlib.crc32(b"".join(part.numpy().tobytes() for part in views if part is not None))


def main() -> None:
    torch.set_num_threads(1)
    keys = json.loads(sys.argv[3])
    config = DataConfig(path=Path(sys.argv[2]), workers=0, prefetch=1, **keys)
    loader = Loader(config, seed=0, global_batch=BATCH, micro_batch=BATCH)
    stream = iter(loader)
    for line in sys.stdin:
        steps, check = json.loads(line)
        before = time.process_time()
        for _ in range(steps):
            batch = next(stream)
        seconds = time.process_time() - before
        print(
            json.dumps({"seconds": seconds / BATCH / steps, "views": seen(batch) if check else 0}), flush=True
        )
    loader.close()


if __name__ == "__main__":
    main()
