"""An index's recall and time beside the exact search: python tests/bench/bench_retrieval.py [volumes].

Features have the shape of an encoder's: 768 channels that follow 24 directions of falling variance, and
noise. One core is used where OMP_NUM_THREADS=1.
"""

import sys
import time

import numpy as np

from fmct_hpc.retrieval.config import SearchConfig
from fmct_hpc.retrieval.index import CODES, Index, lists_for, recall_of
from fmct_hpc.retrieval.search import nearest_of
from fmct_hpc.retrieval.stored import Stored

WIDTH, DIRECTIONS, QUESTIONS = 768, 24, 1000


def main(volumes: int = 100_000) -> None:
    """Print a row an index."""
    generator = np.random.default_rng(0)
    spread = 1 / np.sqrt(1 + np.arange(DIRECTIONS))
    mixed = generator.normal(size=(DIRECTIONS, WIDTH)) * spread[:, None]
    x = generator.normal(size=(volumes, DIRECTIONS)) @ mixed
    x = (x + 0.5 * generator.normal(size=x.shape)).astype(np.float32)
    own = Stored((x,), np.arange(volumes)).standardised_over(np.arange(volumes))
    asked = own.unit(np.arange(QUESTIONS))
    started = time.perf_counter()
    nearest_of(own, asked, 10)
    print(f"exact: {QUESTIONS} questions {time.perf_counter() - started:.1f} s")
    print(f"{volumes} volumes, {lists_for(volumes)} lists")
    for code in CODES:
        started = time.perf_counter()
        index = Index(own, code, SearchConfig())
        print(f"{code}: made in {time.perf_counter() - started:.0f} s", flush=True)
        for probes in (16, 64, 256):
            index._index.nprobe = probes
            started = time.perf_counter()
            index.nearest(asked, SearchConfig().candidates)
            took = time.perf_counter() - started
            print(f"  {probes} probes: recall {recall_of(index, own, 1000):.4f}, {took:.1f} s", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
