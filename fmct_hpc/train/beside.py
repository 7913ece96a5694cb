"""Weights in files that a run can start from: an encoder, and other parts of the model beside it."""

import hashlib
from pathlib import Path

from shards.info import sha256

_PARTS = ("head", "decoder")
"""Files that `fmct convert-weights` writes beside an encoder, named as the student's parts."""


def parts_beside(encoder: Path) -> dict[str, Path]:
    """The files of other parts beside an encoder's, by the name of the part."""
    files = {part: encoder.with_name(f"{part}.safetensors") for part in _PARTS}
    return {part: file for part, file in files.items() if file.is_file()}


def weights_digest(encoder: Path) -> str:
    """SHA-256 of an encoder's file, and, where there are other parts beside it, of all digests together."""
    beside = {part: sha256(file) for part, file in parts_beside(encoder).items()}
    own = sha256(encoder)
    return hashlib.sha256(f"{own} {beside}".encode()).hexdigest() if beside else own


def digests_of(encoder: Path) -> tuple[str, ...]:
    """The digests by which an encoder's file may be recorded: earlier versions left out the other parts."""
    return weights_digest(encoder), sha256(encoder)
