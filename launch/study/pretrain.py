"""The study's encoders: each is a run of `fmct train`, as anyone would start it."""

import logging
from pathlib import Path

import yaml

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.export import encoder_info
from launch.program import FMCT
from launch.ranks import run_ranks
from shards.atomic import write_text
from shards.errors import FmctError

log = logging.getLogger(__name__)


def pretrain(recipe: TrainConfig, run: Path) -> Path:
    """Train `recipe` to its end in the folder `run`, or go on there; the encoder's file.

    Raises FmctError where `fmct train` fails or was stopped by a signal, and where the folder holds an
    encoder of another model: one that a version of other defaults pretrained is not to be compared with ours.
    """
    encoder = run / "encoder.safetensors"
    if encoder.exists():
        if encoder_info(encoder).model != recipe.model:
            raise FmctError(
                f"{encoder}: is of another model than the recipe's; give the study another folder"
            )
        return encoder
    file = run.with_suffix(".yaml")
    write_text(file, yaml.safe_dump(recipe.model_dump(mode="json")))
    log.info("pretraining %s: %d steps of %d volumes", run.name, recipe.run.steps, recipe.run.batch)
    command = [*FMCT, "train", "--run", str(run), "--config", str(file)]
    ended = run_ranks(command, 1)
    if ended.code or not encoder.exists():
        raise FmctError(f"{run}: pretraining ended, {ended.what()}; run the same command to go on")
    return encoder
