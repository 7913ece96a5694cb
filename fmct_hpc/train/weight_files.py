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


def digests_of(encoder: Path) -> tuple[str, str]:
    """The digests by which an encoder's file may be recorded.

    The first is the SHA-256 of the digests of the encoder and the parts beside it, or of the encoder's file
    alone if there are none. The second, of the encoder's file, was recorded by earlier versions.
    """
    beside = {part: sha256(file) for part, file in other_parts(encoder).items()}
    own = sha256(encoder)
    return hashlib.sha256(f"{own} {beside}".encode()).hexdigest() if beside else own, own
