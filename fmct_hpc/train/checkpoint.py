"""Checkpoints: a directory a step that has its name only when every rank's part is on disk.

A checkpoint is DeepSpeed's own files (every rank's part of the student and the optimizer), the averaged
weights (every rank's part of the teacher, or of the encoder where there is no teacher), the DINO centre,
and a manifest with the size and SHA-256 of each file.
"""

import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from fmct_hpc.train.partition import is_partitioned, join_parts, read_part, write_part
from fmct_hpc.train.process_group import on_first_rank
from shards.atomic import sync, write_text
from shards.errors import FmctError

if TYPE_CHECKING:  # a check of a run folder must not load DeepSpeed
    from deepspeed import DeepSpeedEngine

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CENTRE = "centre.pt"
ENGINE = "engine"
"""The subdirectory with DeepSpeed's own files."""


class FileFacts(BaseModel):
    """What a file of a checkpoint must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a checkpoint holds and what it fits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = FORMAT_VERSION
    step: int
    """Steps that are done; the next one to do has this number."""
    world_size: int
    zero_stage: int
    content_digest: str
    """Of the volumes (shards.Dataset.content_digest)."""
    files: dict[str, FileFacts]


class State:
    """The parts of a training run that a checkpoint carries."""

    def __init__(
        self,
        engine: "DeepSpeedEngine",
        averaged: dict[str, nn.Parameter],
        targets: nn.Module | None,
        zero_stage: int,
        content_digest: str,
    ) -> None:
        """averaged: the weights to export and go on averaging, by name ("encoder. ...", "head. ...")."""
        self.engine = engine
        self.averaged = averaged
        self.targets = targets
        self.zero_stage = zero_stage
        self.content_digest = content_digest

    def save(self, run: Path, step: int, keep_last: int) -> Path:
        """Write `checkpoints/step-...`; every rank must call it. Removes all but the last `keep_last`."""
        path = checkpoint_path(run, step)
        temporary = path.with_name(f".{path.name}.tmp")
        on_first_rank(lambda: _make_empty(temporary))
        self.engine.save_checkpoint(str(temporary), tag=ENGINE, save_latest=False)
        if dist.get_rank() == 0 or is_partitioned(self.averaged):
            write_part(temporary / part_name(dist.get_rank()), self.averaged)
        if dist.get_rank() == 0 and self.targets is not None:
            torch.save(self.targets.state_dict(), temporary / CENTRE)
        dist.barrier()
        on_first_rank(lambda: self._publish(temporary, path, step))
        on_first_rank(lambda: _prune(run, keep_last))
        return path

    def _publish(self, temporary: Path, path: Path, step: int) -> None:
        files = sorted(file for file in temporary.rglob("*") if file.is_file())
        for file in files:
            sync(file)
        manifest = Manifest(
            step=step,
            world_size=dist.get_world_size(),
            zero_stage=self.zero_stage,
            content_digest=self.content_digest,
            files={str(file.relative_to(temporary)): _facts(file) for file in files},
        )
        write_text(temporary / MANIFEST, manifest.model_dump_json(indent=1))
        if path.exists():  # the same step once more, after a rerun with another `until`
            shutil.rmtree(path)
        os.replace(temporary, path)
        sync(path.parent)

    def load(self, path: Path, manifest: Manifest) -> None:
        """Take everything back from a checkpoint that `newest` has verified.

        Raises FmctError where it was saved by another number of ranks or another ZeRO stage.
        """
        world_size = dist.get_world_size()
        if (manifest.world_size, manifest.zero_stage) != (world_size, self.zero_stage):
            raise FmctError(
                f"{path}: saved by {manifest.world_size} ranks at engine.zero_stage={manifest.zero_stage}, "
                f"but this run has {world_size} at {self.zero_stage}: resume it as it was saved"
            )
        self.engine.load_checkpoint(str(path), tag=ENGINE)
        own = dist.get_rank() if is_partitioned(self.averaged) else 0
        read_part(path / part_name(own), self.averaged)
        if self.targets is not None:
            self.targets.load_state_dict(torch.load(path / CENTRE, weights_only=True))


def checkpoint_path(run: Path, step: int) -> Path:
    """The directory of the checkpoint at `step` in a run folder."""
    return run / "checkpoints" / f"step-{step:08d}"


def part_name(rank: int) -> str:
    """The file with a rank's part of the averaged weights."""
    return f"averaged-rank-{rank:05d}.safetensors"


def newest(run: Path) -> tuple[Path, Manifest] | None:
    """The newest whole checkpoint of a run folder and its manifest; None where it has none at all.

    Every file's size and SHA-256 is checked. A damaged checkpoint is named in a warning and the one
    before it is taken; raises FmctError where all are damaged: a run is never begun again in silence.
    """
    damaged: list[str] = []
    for path in sorted((run / "checkpoints").glob("step-*"), reverse=True):
        try:
            manifest = verify(path)
        except FmctError as error:
            damaged.append(str(error))
            continue
        for what in damaged:
            log.warning("%s", what)
        if damaged:
            log.warning("going on from %s instead", path)
        return path, manifest
    if damaged:
        raise FmctError(
            f"no whole checkpoint is left: {damaged[0]}; restore that file, or remove {run / 'checkpoints'} "
            "to begin again"
        )
    return None


def verify(path: Path) -> Manifest:
    """Check a checkpoint against its manifest; raises FmctError that names the first damaged file."""
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        raise FmctError(f"{path / MANIFEST}: missing or damaged; the checkpoint can't be used") from None
    if manifest.format_version != FORMAT_VERSION:
        raise FmctError(
            f"{path}: checkpoint format {manifest.format_version}, this code reads {FORMAT_VERSION}"
        )
    for name, facts in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise FmctError(f"{file}: missing; the checkpoint can't be used")
        if _facts(file) != facts:
            raise FmctError(f"{file}: not as it was written; the checkpoint can't be used")
    return manifest


def averaged_weights(path: Path) -> dict[str, Tensor]:
    """The whole averaged weights of a checkpoint, joined from all ranks' parts."""
    return join_parts(sorted(path.glob("averaged-rank-*.safetensors")))


def _make_empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _prune(run: Path, keep_last: int) -> None:
    for path in sorted((run / "checkpoints").glob("step-*"))[:-keep_last]:
        shutil.rmtree(path)


def _facts(file: Path) -> FileFacts:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileFacts(bytes=file.stat().st_size, sha256=digest)
