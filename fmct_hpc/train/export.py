"""The encoder as others use it: safetensors and a JSON file that says what it expects."""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fmct_hpc.config import DataConfig, ModelConfig, TrainConfig
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.objective.student import Student
from shards import DatasetInfo, FmctError
from shards.atomic import atomic_path, write_text


class EncoderInfo(BaseModel):
    """What an encoder was trained on, and how its input is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    model: ModelConfig
    data: DataConfig
    spacing_mm: tuple[float, float, float]
    preprocess_digest: str
    """SHA-256 of the preprocessing configuration of its training volumes."""
    dataset_digest: str
    code_version: str


def export_encoder(
    out: Path, averaged: dict[str, Tensor], config: TrainConfig, dataset: DatasetInfo, step: int
) -> None:
    """Write `out`/encoder.safetensors and, last, `out`/encoder.json.

    averaged: whole tensors by name, of which those under "encoder." are written.
    """
    weights = {n.removeprefix("encoder."): t for n, t in averaged.items() if n.startswith("encoder.")}
    info = EncoderInfo(
        step=step,
        model=config.model,
        data=config.data,
        spacing_mm=dataset.spacing_mm,
        preprocess_digest=dataset.config_digest,
        dataset_digest=dataset.digest,
        code_version=version("fmct-hpc"),
    )
    with atomic_path(out / "encoder.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary)
    # The path of the training data is the trainer's business, not that of who gets the encoder.
    document = info.model_dump(mode="json") | {"data": info.data.model_dump(mode="json") | {"path": ""}}
    write_text(out / "encoder.json", json.dumps(document, indent=1))


def load_encoder(path: Path | str) -> tuple[VisionTransformer, EncoderInfo]:
    """The encoder at `path`, an encoder.safetensors with its encoder.json beside it, in evaluation mode.

    Raises FmctError where either is missing or they do not fit each other.
    """
    path = Path(path)
    description = path.with_suffix(".json")
    for file in (path, description):
        if not file.is_file():
            raise FmctError(f"{file}: no such file; `fmct train` writes it at the end of a run")
    try:
        info = EncoderInfo.model_validate_json(description.read_bytes())
        encoder = VisionTransformer(info.model, len(info.data.windows), info.data.view_size)
        encoder.load_state_dict(load_file(path))
    except (ValidationError, RuntimeError, OSError) as error:
        raise FmctError(
            f"{path}: not an encoder that fits {description.name} ({type(error).__name__})"
        ) from None
    return encoder.eval(), info


def initial_encoder(config: TrainConfig) -> VisionTransformer:
    """The encoder with the weights that a run of `config` starts from, in evaluation mode."""
    return initial_student(config).encoder.eval()


def initial_student(config: TrainConfig) -> Student:
    """The student at step 0: the same weights on every rank and at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        return Student(config)
