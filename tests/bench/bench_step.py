"""A training step on one device: the trainer under DeepSpeed and a plain torch loop, for growing batches.

    python tests/bench/bench_step.py --size B --batches 16 32 64 128          # on a GPU: bf16
    python tests/bench/bench_step.py --tiny                                  # tests that the benchmark runs

Views are drawn on the device once, so that no step waits for data. Each step is the whole objective (DINO and
MAE, teacher, update, average); a batch that does not fit into memory has a row that says so.
"""

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from markdown_table import heading, row
from tiny import parsed

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.loader import Batch
from fmct_hpc.data.views import Views
from fmct_hpc.model.size import training_flops
from fmct_hpc.objective.draws import draw
from fmct_hpc.objective.targets import Targets
from fmct_hpc.train.process_group import RankInfo, join
from fmct_hpc.train.schedules import settings
from fmct_hpc.train.throughput import peak_flops, peak_memory

WARM_UP = 3
TINY = {
    **{"width": 24, "depth": 1, "heads": 2, "prototypes": 32, "head_hidden": 24, "head_bottleneck": 12},
    **{"decoder_width": 18, "decoder_depth": 1, "decoder_heads": 2},
}


def configuration(size: str, device: str, batch: int, stage: int, overrides: dict[str, bool]) -> TrainConfig:
    model = TINY if size == "tiny" else {"size": size}
    engine = {"device": device, "precision": "bf16" if device == "gpu" else "fp32", "zero_stage": stage}
    return TrainConfig.model_validate(
        {
            "data": {"path": Path("unused"), "view_size": 24 if size == "tiny" else 96},
            "model": model,
            "engine": {**engine, **overrides},
            "run": {"batch": batch},
        }
    )


def make_batch(config: TrainConfig, rank_info: RankInfo) -> Batch:
    size, count = config.data.view_size, config.run.batch
    assert isinstance(size, int)
    made = torch.rand(config.data.views, count, 3, size, size, size, device=rank_info.device)
    views = Views(made[: config.data.global_views], made[config.data.global_views :])
    return Batch(views, np.arange(count), [f"{n:032x}" for n in range(count)], 0, 0.0)


def ours(config: TrainConfig, rank_info: RankInfo) -> Callable[[int], None]:
    """The trainer's own step."""
    from fmct_hpc.train.loop import Training

    training, batch = Training(config, rank_info), make_batch(config, rank_info)

    def step(number: int) -> None:
        training.step(number, [batch], False)

    return step


def plain(config: TrainConfig, rank_info: RankInfo) -> Callable[[int], None]:
    """The same step by torch alone: fused AdamW, autocast, one process."""
    from fmct_hpc.train.start import initial

    student = initial(config).student.to(rank_info.device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    targets = Targets(config).to(rank_info.device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=rank_info.device.type == "cuda")
    batch = make_batch(config, rank_info)

    def step(number: int) -> None:
        drawn = draw(config, number, batch.indices).to(rank_info.device)
        with torch.autocast(rank_info.device.type, torch.bfloat16, enabled=config.engine.precision == "bf16"):
            with torch.no_grad():
                cls = teacher.encoder(batch.views.whole.flatten(0, 1))[:, 0]
                logits = teacher.get_submodule("head")(cls).unflatten(0, (2, config.run.batch))
                [scores] = targets.of([{"dino": logits}], 0.04)
            loss = student(batch.views, scores, drawn, settings(config, number)).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 3.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        targets.update()
        with torch.no_grad():
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 0.006)

    return step


def measure(step: Callable[[int], None], rank_info: RankInfo, steps: int) -> float:
    """Seconds per step, the median of `steps` after some warm-up steps."""
    seconds = []
    for number in range(WARM_UP + steps):
        began = time.perf_counter()
        step(number)
        if rank_info.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[WARM_UP:]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--size", choices=("tiny", "S", "B", "L"), default="B")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--stage", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpointing", action="store_true", help="activation checkpointing")
    parser.add_argument("--steps", type=int, default=10)
    given = parsed(parser, arguments, device="cpu", size="tiny", batches=[2], steps=1)
    rank_info = join(given.device)
    name = torch.cuda.get_device_name(rank_info.device) if given.device == "gpu" else "CPU"
    print(f"{name}, ViT-{given.size}")
    heading("batch", "loop", "ms a step", "volumes/s", "MFU", "peak GB")
    overrides = {"compile": given.compile, "activation_checkpointing": given.checkpointing}
    peak = peak_flops(rank_info.device)
    for batch in given.batches:
        config = configuration(given.size, given.device, batch, given.stage, overrides)
        for label, make in (("ours", ours), ("plain torch", plain)):
            if given.device == "gpu":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                seconds = measure(make(config, rank_info), rank_info, given.steps)
            except torch.OutOfMemoryError:
                row(batch, label, "does not fit", "", "", "")
                continue
            mfu = f"{batch * training_flops(config) / seconds / peak:.1%}" if peak else ""
            memory = peak_memory(rank_info.device) / 1e9
            row(batch, label, f"{1000 * seconds:.1f}", f"{batch / seconds:.1f}", mfu, f"{memory:.1f}")


if __name__ == "__main__":
    main()
