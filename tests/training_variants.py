"""The runs of tests/integration/test_train.py and their configurations."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import training_ranks
from forked_ranks import run_forked
from shard_samples import damage_volume
from small_training import small_config, write_dataset
from training_ranks import CHECKPOINT_EVERY, STEPS

from fmct_hpc.config import TrainConfig

VARIANTS: dict[str, dict[str, object]] = {
    "stage0": {"zero_stage": 0},
    "stage1": {"zero_stage": 1, "micro_batch": 1},
    "stage2": {"zero_stage": 2},
    "stage3": {"zero_stage": 3, "activation_checkpointing": True},
    "bf16-0": {"zero_stage": 0, "precision": "bf16"},
    "bf16-3": {"zero_stage": 3, "precision": "bf16"},
    "offload2": {"zero_stage": 2, "offload_optimizer": True},
    "offload3": {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True},
}
SMALLER: dict[str, dict[str, object]] = {
    "smaller-1": {"zero_stage": 1},
    "smaller-2": VARIANTS["stage2"],
    "smaller-3": VARIANTS["stage3"],
}
"""With local views of fewer voxels, and LeJEPA, whose value depends on the micro-batches."""
ANCHORED = {"gram-0": "stage0", "gram-1": "stage1", "gram-3": "stage3"}
"""Variants again, with Gram anchoring: from step 5, and a refresh every 3 steps, but none at the break. Their
tokens are other ones too."""
ANCHORED_STEPS = STEPS + 4
"""So that three refreshes follow the first."""
TOKENS: dict[str, dict[str, object]] = {
    "data": {"view_size": (8, 24, 36)},
    "model": {
        **{"patch_size": (4, 12, 12), "keep_tokens": 0.6},
        **{"positions": "rope", "rope_jitter": {"shift": 0.1, "stretch": 1.2, "rescale": 2}},
    },
}
RESUMED = ("stage0", "stage1", "stage2", "stage3", "bf16-0", "bf16-3", *SMALLER, *ANCHORED)
ELASTIC: dict[int, dict[str, object]] = {
    1: {"zero_stage": 1, "micro_batch": 2},
    2: {"zero_stage": 3, "micro_batch": 1},
    4: {"zero_stage": 2, "deepspeed": {"zero_optimization": {"reduce_bucket_size": 1000}}},
}
GRAM = {"gram_weight": 2.0, "gram_begin": 4 / ANCHORED_STEPS, "gram_refresh": 3 / ANCHORED_STEPS}
LEJEPA = {"lejepa_weight": 1.0, "lejepa_slices": 64, "lejepa_hidden": 24, "lejepa_width": 12}


def configured(data: Path, steps: int = STEPS, /, **sections: Mapping[str, object]) -> TrainConfig:
    """A small run, with pictures in its middle and at its end."""
    length = {"steps": steps, "checkpoint_every": CHECKPOINT_EVERY, "images_every": steps // 2}
    return small_config(data, **{**sections, "run": {**length, **sections.get("run", {})}})


def anchored(data: Path, engine: Mapping[str, object]) -> TrainConfig:
    return configured(data, ANCHORED_STEPS, objective=GRAM, engine=engine, **TOKENS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted and a resumed run of every variant, and more, on two ranks."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_dataset(folder / "data")
    for name, engine in VARIANTS.items():
        (folder / f"{name}.json").write_text(configured(data, engine=engine).model_dump_json())
    for name, engine in SMALLER.items():
        views, without = {"local_view_size": 12}, {"every": 0}
        config = configured(data, data=views, objective=LEJEPA, engine=engine, health=without)
        (folder / f"{name}.json").write_text(config.model_dump_json())
    for name, variant in ANCHORED.items():
        config = anchored(data, VARIANTS[variant])
        (folder / f"{name}.json").write_text(config.model_dump_json())
    write_skipping(folder)
    assert run_forked(training_ranks.__file__, (2, ["all", folder])) == 0
    return folder


def write_skipping(folder: Path) -> None:
    """The configuration of a run that skips a damaged volume and reads cached shards."""
    data = write_dataset(folder / "damaged")
    damage_volume(data, 4)
    cached = {"damaged": "skip", "cache": str(folder / "cache")}
    config = configured(data, data=cached, health={"every": 0})
    (folder / "skipping.json").write_text(config.model_dump_json())
