"""Weight files that a run can start from: an encoder, and other parts of the model in the same folder."""

import hashlib
from pathlib import Path

from shards.info import sha256

_PARTS = ("head", "decoder")
"""Files that `fmct convert-weights` writes next to an encoder, named like the student's parts."""


def other_parts(encoder: Path) -> dict[str, Path]:
    """The files of other parts in the folder of an encoder's file, by the name of the part."""
    files = {part: encoder.with_name(f"{part}.safetensors") for part in _PARTS}
    return {part: file for part, file in files.items() if file.is_file()}


def weights_digest(encoder: Path) -> str:
    """SHA-256 of an encoder's file or, with other parts in its folder, of the digests of all."""
    others = {part: sha256(file) for part, file in other_parts(encoder).items()}
    own = sha256(encoder)
    return hashlib.sha256(f"{own} {others}".encode()).hexdigest() if others else own


def digests_of(encoder: Path) -> tuple[str, ...]:
    """The digests that may be recorded for an encoder's file: earlier versions omitted the other parts."""
    return weights_digest(encoder), sha256(encoder)
