"""The weights of run.start_from: an encoder with the parts beside it, or the state of another run."""

from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fmct_hpc.data.config import DataConfig
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.train.checkpoint import (
    MANIFEST,
    InitialWeights,
    Manifest,
    checkpoint_of,
    newest,
    parts,
    read_manifest,
    verify,
)
from fmct_hpc.train.export import configuration_of, encoder_info, load_encoder, origin_of
from fmct_hpc.train.pieces import PieceFiles
from fmct_hpc.train.state import AVERAGE, TARGETS, WEIGHT, whole_tensors
from fmct_hpc.train.weight_files import digests_of, other_parts
from shards.errors import FmctError, raise_refusal


class Source(NamedTuple):
    """Weights to start from: whole float32 tensors by the student's names, with their configuration."""

    description: Path
    """The file that describes them."""
    model: ModelConfig
    data: DataConfig
    weights: dict[str, Tensor]
    averages: dict[str, Tensor]
    """The teacher's weights; empty without a teacher."""
    targets: dict[str, Tensor]
    """State of the targets (`fmct_hpc.objective.targets`) by name; may be empty."""


def find_source(start: Path, digest: str | None) -> InitialWeights:
    """The source that `start` names; for a run folder its newest intact checkpoint, verified byte by byte.

    digest: of the source of an earlier attempt, which selects exactly that checkpoint. Raises FmctError where
    the source is missing, damaged, or has another digest.
    """
    if start.is_dir():
        place, manifest = _checkpoint(start, digest)
        origin = f"step {manifest.step} ({manifest.digest}) of {_origin(place, manifest)}"
        source = InitialWeights(place=place, digest=manifest.digest, origin=origin)
    else:
        origin, own = encoder_info(start).origin, digests_of(start)
        # A run of an earlier version recorded the encoder's digest alone.
        source = InitialWeights(place=start, origin=origin, digest=digest if digest in own else own[0])
    if digest not in (None, source.digest):
        raise FmctError(
            f"{start}: differs from what the run started from ({digest}); restore that, or name another run "
            "folder"
        )
    return source


def read_source(beginning: InitialWeights) -> Source:
    """The weights that `find_source` selected; raises FmctError where they are missing or have changed."""
    if not beginning.place.is_dir():
        return _of_encoder(beginning.place)
    place, manifest = beginning.place, read_manifest(beginning.place)
    if manifest.digest != beginning.digest:
        raise FmctError(f"{place}: has changed since it was checked; run it again")
    config = configuration_of(place, manifest)
    try:
        files = PieceFiles(parts(place, manifest))
        kinds = [whole_tensors(files, kind) for kind in (WEIGHT, AVERAGE, TARGETS)]
    except (SafetensorError, OSError) as error:
        raise_refusal(error, place)
        raise FmctError(f"{place}: can't be read ({error}); was it removed since?") from None
    return Source(place / MANIFEST, config.model, config.data, *kinds)


def _of_encoder(file: Path) -> Source:
    encoder, info = load_encoder(file)
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    for beside in other_parts(file).values():
        weights |= load_file(beside)
    return Source(file.with_suffix(".json"), info.model, info.data, weights, {}, {})


def _checkpoint(start: Path, digest: str | None) -> tuple[Path, Manifest]:
    """The checkpoint `start`, or, in the run folder `start`, the one with that digest, else the newest."""
    place = start if (start / MANIFEST).is_file() else digest and checkpoint_of(start, digest)
    checkpoint = (place, verify(place)) if place else newest(start)
    if checkpoint is None:
        raise FmctError(
            f"{start}: neither a checkpoint nor a run folder with one; to start from an encoder only, name "
            "its encoder.safetensors"
        )
    return checkpoint


def _origin(place: Path, manifest: Manifest) -> str:
    return origin_of(configuration_of(place, manifest).run.start_from, manifest.beginning)
