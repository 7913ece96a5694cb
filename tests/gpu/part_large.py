"""ViT-L/12 with activation checkpointing, and without as far as memory allows."""

from measure import Measurement
from part_step import timed
from plain_training import configuration

BATCHES = (16, 64, 128, 256)
TOY_BATCHES = (2,)


def measure(m: Measurement) -> None:
    """One row per batch size, with and without checkpointing."""
    for checkpointing in (True, False):
        for batch in TOY_BATCHES if m.dry else BATCHES:
            config = configuration(m.dry, "L", batch, engine={"activation_checkpointing": checkpointing})
            if m.over or not timed(m, config, f"ViT-L, activation_checkpointing={checkpointing}"):
                break
