"""An index's recall and time compared with the exact search: python tests/bench/bench_retrieval.py.

Features resemble an encoder's: 768 channels with 24 directions of decreasing variance, and noise. With
OMP_NUM_THREADS=1 one core is used.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
from markdown_table import heading, row
from tiny import parsed

from fmct_hpc.retrieval.config import SearchConfig
from fmct_hpc.retrieval.exact import nearest_of
from fmct_hpc.retrieval.index import CODES, Index, lists_for, recall_of
from fmct_hpc.retrieval.stored_features import StoredFeatures

WIDTH, DIRECTIONS = 768, 24


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--probes", type=int, nargs="+", default=[16, 64, 256])
    options = parsed(parser, arguments, volumes=2000, questions=10, probes=[4])
    volumes, questions = options.volumes, options.questions
    generator = np.random.default_rng(0)
    spread = 1 / np.sqrt(1 + np.arange(DIRECTIONS))
    mixed = generator.normal(size=(DIRECTIONS, WIDTH)) * spread[:, None]
    clean = generator.normal(size=(volumes, DIRECTIONS)) @ mixed
    x = (clean + 0.5 * generator.normal(size=clean.shape)).astype(np.float32)
    own = StoredFeatures((x,), np.arange(volumes)).standardised_over(np.arange(volumes))
    queries = own.unit(np.arange(questions))
    started = time.perf_counter()
    nearest_of(own.batches(), queries, 10)
    print(f"{volumes} volumes, {lists_for(volumes)} lists, {questions} questions")
    heading("index", "made in s", "lists probed", "recall", "s")
    row("exact", "", "", 1, f"{time.perf_counter() - started:.2f}")
    for code in CODES:
        started = time.perf_counter()
        index = Index(own, code, SearchConfig())
        made = time.perf_counter() - started
        for probes in options.probes:
            index.probes = probes
            started = time.perf_counter()
            index.nearest(queries, SearchConfig().candidates)
            took = time.perf_counter() - started
            row(code, f"{made:.1f}", probes, f"{recall_of(index, own, questions):.4f}", f"{took:.2f}")


if __name__ == "__main__":
    main()
