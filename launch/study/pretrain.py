"""Pretraining of the study's encoders by `fmct train`."""

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
    """Train `recipe` in the folder `run`, or resume it there; returns the encoder's file.

    Raises FmctError if `fmct train` fails or was stopped by a signal, or if the folder has an encoder of
    another model, for example one pretrained by a version with other defaults.
    """
    encoder = run / "encoder.safetensors"
    if encoder.exists():
        if encoder_info(encoder).model != recipe.model:
            raise FmctError(f"{encoder}: another model than the recipe's; use another folder for the study")
        return encoder
    file = run.with_suffix(".yaml")
    write_text(file, yaml.safe_dump(recipe.model_dump(mode="json")))
    log.info("pretraining %s: %d steps of %d volumes", run.name, recipe.run.steps, recipe.run.batch)
    command = [*FMCT, "train", "--run", str(run), "--config", str(file)]
    ended = run_ranks(command, 1)
    if ended.code or not encoder.exists():
        raise FmctError(f"{run}: pretraining ended, {ended.describe()}; run the same command again to resume")
    return encoder
