"""ViT-B/12's training step (DINO + MAE, bf16) by batch size, eager and compiled: volumes/s, MFU, memory."""

import torch
from measure import Measurement
from plain_training import PlainTraining, configuration, stepping

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.size import training_flops
from fmct_hpc.train.throughput import peak_flops, peak_memory

BATCHES = (16, 32, 64, 128, 192, 256)
TOY_BATCHES = (2, 4)


def measure(m: Measurement) -> None:
    """One row per batch size and mode."""
    for compiled in (False,) if m.dry else (False, True):
        for batch in TOY_BATCHES if m.dry else BATCHES:
            if m.over or not timed(
                m, configuration(m.dry, batch=batch, engine={"compile": compiled}), f"compile={compiled}"
            ):
                break


def timed(m: Measurement, config: TrainConfig, what: str) -> bool:
    """Measure the step of a configuration; False if it does not fit into the device's memory."""
    m.forget()
    peak, batch = peak_flops(m.device), config.run.batch
    facts = {"what": what, "batch": batch}
    try:
        ms = m.ms(stepping(PlainTraining(config, m.device)))
    except torch.OutOfMemoryError:
        m.add(**facts, ms=None, volumes_per_second=None, mfu=None, memory_gb=None, note="does not fit")
        return False
    mfu = 1000 * batch * training_flops(config) / ms / peak if peak else None
    memory = peak_memory(m.device) / 1e9
    m.add(**facts, ms=ms, volumes_per_second=1000 * batch / ms, mfu=mfu, memory_gb=memory, note="")
    return True
