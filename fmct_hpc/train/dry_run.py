"""`fmct train --dry-run`: sizes, memory and time of a run, before anything starts."""

import json
from pathlib import Path

from matplotlib.figure import Figure

from fmct_hpc.config import TrainConfig
from fmct_hpc.fields import size_text
from fmct_hpc.model.size import (
    encoder_flops,
    parameter_counts,
    tokens_per_volume,
    training_flops,
)
from fmct_hpc.train.failures import RESTART_SECONDS, daly_interval, expected_seconds
from fmct_hpc.train.length import epochs_of, too_many_epochs
from fmct_hpc.train.schedules import settings
from fmct_hpc.train.throughput import PEAK_TFLOPS
from shards import Dataset
from shards.atomic import atomic_path

ASSUMED_GPU, ASSUMED_MFU = "H100", 0.4
"""Assumptions of the time estimate; a run records its MFU."""
SAVE_BYTES_PER_SECOND = 1e9
"""Write rate of one job that does not overload a shared file system."""
STATE_BYTES, TEACHER_BYTES = 12, 4
"""Bytes per parameter in a checkpoint: float32 weight and AdamW's two moments; the average."""
BLOCK_BYTES = 34
"""Bytes kept for the backward pass per token, channel and block, with 2-byte numbers (Korthikanti et al.
2022, equation 2 without the attention matrix, which scaled_dot_product_attention does not keep)."""


def outlook(config: TrainConfig, dataset: Dataset, ranks: int, done: int) -> str:
    """Sizes, memory, steps and times of a run on `ranks` ranks after `done` steps; Markdown.

    Raises FmctError where the ranks do not divide run.batch.
    """
    accumulation = config.accumulation(ranks)
    micro = config.run.batch // (ranks * accumulation)
    epochs, warning = epochs_of(config, len(dataset)), too_many_epochs(config, len(dataset))
    size = f"{dataset.info.bytes / 1e9:.1f} GB"
    sections = {
        "data": [
            f"{len(dataset)} volumes in {len(dataset.info.shards)} {dataset.info.format} shards, {size}",
            f"{len(dataset) / config.run.batch:.1f} steps an epoch; "
            f"{config.run.steps} steps are {epochs:.1f} epochs",
            *([f"WARNING: {warning}"] if warning else []),
            f"{done} steps are done, {config.run.steps - done} to do",
        ],
        "batch": [
            f"{config.run.batch} volumes a step = {ranks} ranks x {accumulation} micro-batches x {micro}",
            *_view_lines(config),
        ],
        "model": _model_lines(config),
        "memory a rank": _memory_lines(config, ranks, micro),
        "time": _time_lines(config, ranks, done),
    }
    return "\n".join(
        f"## {title}\n" + "\n".join(f"- {line}" for line in lines) for title, lines in sections.items()
    )


def _view_lines(config: TrainConfig) -> list[str]:
    data, objective = config.data, config.objective
    sizes = data.view_sizes
    shown = f"{data.global_views} global views of {size_text(sizes[0])}"
    if data.local_views:
        shown += f" and {data.local_views} local ones of {size_text(sizes[-1])}"
    lines = [f"{shown}, {tokens_per_volume(config)} tokens a volume in the student"]
    if sizes[-1] != sizes[0] and objective.compares_views:
        large = config.model_copy(update={"data": data.model_copy(update={"local_view_size": None})})
        lines.append(_spared(f"data.local_view_size={json.dumps(data.local_view_size)}", config, large))
    if config.model.keep_tokens < 1:
        whole = config.model_copy(update={"model": config.model.model_copy(update={"keep_tokens": 1.0})})
        lines.append(_spared(f"model.keep_tokens={config.model.keep_tokens}", config, whole))
    if data.views > 1 and not objective.compares_views:
        lines.append(
            "only the first view is used: data.global_views=1 data.local_views=0 avoid computing the others"
        )
    return lines


def _spared(key: str, config: TrainConfig, without: TrainConfig) -> str:
    return f"{key} saves {1 - training_flops(config) / training_flops(without):.0%} of a step's operations"


def held_bytes(stage: int, ranks: int, student: int, teacher: int) -> float:
    """Bytes of float32 weights, AdamW's moments and the teacher on a rank between two steps.

    Rajbhandari et al. 2020 (ZeRO), section 5, for weights that stay float32 (bf16 is autocast). Under ZeRO
    the optimizer has a master copy of the rank's share; stage 3 partitions everything, including the teacher.
    Measured by tests/bench/bench_memory.py.
    """
    if stage == 0:
        return 4.0 * (3 * student + teacher)
    if stage == 3:
        return 4.0 * (4 * student + teacher) / ranks
    return 4.0 * (student + 3 * student / ranks + teacher)


def gradient_bytes(stage: int, ranks: int, student: int) -> float:
    """Bytes of gradients at the end of a backward pass; from stage 2 on, of the rank's share only."""
    return 4.0 * student / (ranks if stage >= 2 else 1)


def activation_bytes(config: TrainConfig, micro_batch: int) -> float:
    """Estimated bytes that transformers keep for the backward pass, accurate to about a third."""
    model = config.model
    numbers = 1 if config.engine.precision == "bf16" else 2
    kept = 2 if config.engine.activation_checkpointing else BLOCK_BYTES
    cells = tokens_per_volume(config) * model.width * model.depth
    cells += sum(part.costs().cells for part in config.parts)
    return float(micro_batch * numbers * kept * cells)


def offloaded_bytes(config: TrainConfig, ranks: int, student: int, teacher: int) -> float:
    """The part of `held_bytes` that is in host memory instead of device memory."""
    offloaded = 3 * student if config.engine.offload_optimizer else 0
    if config.engine.offload_parameters:
        offloaded += student + teacher
    return 4.0 * offloaded / ranks


def head_bytes(config: TrainConfig, rank_batch: int, micro_batch: int) -> float:
    """Bytes of float32 head outputs: targets of a rank's complete step, the student's of a micro-batch."""
    costs = [part.costs() for part in config.parts]
    return 4.0 * sum(rank_batch * each.targets + micro_batch * each.outputs for each in costs)


def plot_schedules(config: TrainConfig, path: Path) -> None:
    """Every scheduled value over the steps, as a PNG."""
    steps = range(0, config.run.steps, max(1, config.run.steps // 1000))
    values = [settings(config, step).figures() for step in steps]
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    axes = figure.subplots(2, -(-len(values[0]) // 2)).ravel()
    for axis in axes:
        axis.set_visible(False)
    for axis, name in zip(axes, values[0], strict=False):
        axis.set_visible(True)
        axis.plot(steps, [value[name] for value in values])
        axis.set_title(name.replace("_", " "))
        axis.set_xlabel("step")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})


def students_and_teachers(config: TrainConfig) -> tuple[int, int]:
    """Number of parameters of the student, and of the teacher."""
    counts = parameter_counts(config)
    taught = [name for part in config.parts for name in part.taught if name in counts]
    teacher = counts["encoder"] + sum(counts[name] for name in taught) if config.objective.distils else 0
    if any(part.anchored for part in config.parts):
        teacher += counts["encoder"]  # the anchor is stored as the teacher is
    return sum(counts.values()), teacher


def _model_lines(config: TrainConfig) -> list[str]:
    parts = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in parameter_counts(config).items())
    student, teacher = students_and_teachers(config)
    return [
        f"{student / 1e6:.1f} M trained parameters: {parts}; teacher {teacher / 1e6:.1f} M",
        f"{encoder_flops(config) / 1e9:.1f} GFLOP a view forward, "
        f"{training_flops(config) / 1e12:.2f} TFLOP a volume and training step",
    ]


def _memory_lines(config: TrainConfig, ranks: int, micro: int) -> list[str]:
    student, teacher = students_and_teachers(config)
    stage = config.engine.zero_stage
    held = held_bytes(stage, ranks, student, teacher)
    gradients = gradient_bytes(stage, ranks, student)
    activations = activation_bytes(config, micro)
    heads = head_bytes(config, config.run.batch // ranks, micro)
    host = offloaded_bytes(config, ranks, student, teacher)
    offloaded = f", {_gb(host)} of these in host memory" if host else ""
    lines = [
        f"{_gb(held)} weights, optimizer, teacher at ZeRO stage {stage}{offloaded}; "
        f"{_gb(gradients)} gradients",
        f"about {_gb(activations)} activations of {micro} volumes",
    ]
    if config.objective.distils:
        lines.append(
            f"about {_gb(heads)} head outputs; targets are kept for all {config.run.batch // ranks} volumes "
            "of the rank's step, independently of engine.micro_batch"
        )
    return [*lines, f"{_gb(held - host + gradients + activations + heads)} in all on the device"]


def _time_lines(config: TrainConfig, ranks: int, done: int) -> list[str]:
    student, teacher = students_and_teachers(config)
    checkpoint = STATE_BYTES * student + TEACHER_BYTES * teacher
    save = checkpoint / SAVE_BYTES_PER_SECOND
    lines = [f"a checkpoint is {_gb(checkpoint)}: {save:.0f} s at {SAVE_BYTES_PER_SECOND / 1e9:.0f} GB/s"]
    if config.engine.device != "gpu":
        return [*lines, "no time estimate for CPUs: run a few steps and see volumes_per_second"]
    flops = ASSUMED_MFU * 1e12 * PEAK_TFLOPS[ASSUMED_GPU] * ranks
    step = config.run.batch * training_flops(config) / flops
    left = (config.run.steps - done) * step
    failure = 3600 * config.run.failure_gpu_hours / ranks
    interval = daly_interval(save, failure)

    def lost(seconds: float) -> str:
        return f"{expected_seconds(1.0, seconds, save, failure) - 1:.2%}"

    return [
        f"{1000 * step:.0f} ms a step on {ranks} {ASSUMED_GPU} at {ASSUMED_MFU:.0%} of their peak, "
        f"{config.run.batch / step:.0f} volumes/s; the rest of the run {left / 3600:.1f} hours, "
        f"{ranks * left / 3600:.0f} GPU hours",
        *lines,
        f"a failure per {config.run.failure_gpu_hours:.0f} GPU hours (run.failure_gpu_hours) is one in "
        f"{failure / 86400:.1f} days; with {RESTART_SECONDS:.0f} s per restart, and counting saves as if "
        f"training waited for the disk, the least time is lost, "
        f"{lost(interval)}, with a save every {interval / 60:.0f} minutes, {interval / step:.0f} steps; "
        f"run.checkpoint_every={config.run.checkpoint_every} loses "
        f"{lost(config.run.checkpoint_every * step)}",
    ]


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"
