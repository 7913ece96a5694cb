"""The weights that a run begins with: drawn from its seed, or those of an encoder that is already there."""

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.objective.student import Student
from fmct_hpc.train.export import EncoderInfo, load_encoder
from shards.errors import FmctError

log = logging.getLogger(__name__)

_PARTS = ("head", "decoder")
"""Files that `fmct convert-weights` puts beside an encoder, named as the student's parts."""


def untrained_encoder(info: EncoderInfo, seed: int) -> VisionTransformer:
    """An encoder of the same architecture with weights drawn from `seed`, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(info.model, len(info.data.windows), info.data.view_size).eval()


def initial_student(config: TrainConfig) -> Student:
    """The student at step 0: the same weights on every rank and at every call.

    Raises FmctError where run.start_from does not fit the configuration.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        student = Student(config)
    if config.run.start_from is not None:
        student.load_state_dict(_given(config.run.start_from, config, student), strict=False)
    return student


def require_start(config: TrainConfig) -> None:
    """Raise FmctError where run.start_from does not fit the configuration; builds no model."""
    if config.run.start_from is not None:
        with torch.device("meta"):
            student = Student(config)
        _given(config.run.start_from, config, student)


def _given(path: Path, config: TrainConfig, student: Student) -> dict[str, Tensor]:
    """The weights at `path` by the student's names: the encoder, and those parts that the student has too."""
    encoder, info = load_encoder(path)
    if info.data.windows != config.data.windows:
        raise FmctError(f"{path}: has data.windows={info.data.windows}, not {config.data.windows}")
    for key in ("heads", "input_mean", "input_std"):  # no shape tells these
        theirs, ours = getattr(info.model, key), getattr(config.model, key)
        if theirs != ours:
            raise FmctError(f"{path}: has model.{key}={theirs}, not {ours}")
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    for part in _PARTS:
        file = path.with_name(f"{part}.safetensors")
        if hasattr(student, part) and file.is_file():
            weights |= load_file(file)
    built = student.state_dict()
    parts = {name.split(".")[0] for name in weights}
    wanted = {name for name in built if name.split(".")[0] in parts}
    for name in sorted(wanted | set(weights)):
        ours, theirs = built.get(name), weights.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            shapes = [None if t is None else tuple(t.shape) for t in (theirs, ours)]
            raise FmctError(
                f"{path}: {name} is {shapes[0]} there and {shapes[1]} by this run's model and data; "
                f"{path.with_suffix('.json')} has the configuration it was made with"
            )
    log.info("beginning with the %s of %s", " and ".join(sorted(parts)), path)
    return weights
