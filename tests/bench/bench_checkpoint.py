"""The cost of a checkpoint of ViT-B: `python tests/bench/bench_checkpoint.py [--folder FOLDER]`.

The reference recipe's whole state (student, AdamW's moments, teacher, centre) on one rank, saved to FOLDER
(default: the temporary directory) by the trainer's own code and verified as for a resume. More ranks
write equal shares in parallel, and their steps are shorter by the same factor, so the share of training time
is about the same. The step time is that of `fmct train --dry-run`: one H100 at 40 % of its peak.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from bench_step import TINY
from markdown_table import heading, row
from tiny import parsed

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.size import training_flops
from fmct_hpc.train.checkpoint import DataFacts, checkpoint_path, verify
from fmct_hpc.train.dry_run import ASSUMED_GPU, ASSUMED_MFU
from fmct_hpc.train.process_group import join
from fmct_hpc.train.throughput import PEAK_TFLOPS

SAVES = 3


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", help="a place on the file system to be measured")
    parser.add_argument("--size", choices=("tiny", "S", "B", "L"), default="B")
    options = parsed(parser, arguments, size="tiny")
    torch.set_num_threads(1)
    place = join("cpu")
    from fmct_hpc.train.loop import Training
    from fmct_hpc.train.saver import Saver

    config = TrainConfig.model_validate(
        {
            "data": {"path": "unused", "view_size": 24 if options.size == "tiny" else 96},
            "model": TINY if options.size == "tiny" else {"size": options.size},
            "engine": {"device": "cpu", "precision": "fp32", "zero_stage": 0},
            "run": {"keep_last": 1},
        }
    )
    digests = ("content_digest", "dataset_digest", "preprocess_digest", "shards_digest")
    data = DataFacts.model_validate({"spacing_mm": (1, 1, 1), **dict.fromkeys(digests, "")})
    training = Training(config, place)
    step_seconds = config.run.batch * training_flops(config) / (ASSUMED_MFU * 1e12 * PEAK_TFLOPS[ASSUMED_GPU])
    between = config.run.checkpoint_every * step_seconds
    print(f"{config.run.checkpoint_every} steps between saves take {between:.0f} s on one {ASSUMED_GPU}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        run = Path(name)
        saver = Saver(run, config, training.state, data)
        heading(
            "save",
            "size GB",
            "training waits s",
            "until it has its name s",
            "MB/s",
            "waits, share of the time",
        )
        for number in range(1, SAVES + 1):
            saver.save(number)
            saver.finish()
            figures = saver.figures()
            size, seconds, waits = (figures[f"save_{name}"] for name in ("bytes", "seconds", "wait"))
            speed, share = size / 1e6 / seconds, waits / (between + waits)
            row(
                *(number, f"{size / 1e9:.2f}", f"{waits:.2f}", f"{seconds:.2f}"),
                *(f"{speed:.0f}", f"{share:.2%}"),
            )
        began = time.perf_counter()
        verify(checkpoint_path(run, SAVES))
        print(f"\nchecked before a resume in {time.perf_counter() - began:.2f} s")
        began = time.perf_counter()
        training.state.load([checkpoint_path(run, SAVES) / "rank-00000.safetensors"], 0)
        print(f"loaded in {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
