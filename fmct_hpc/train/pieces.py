"""Slices of named tensors in files: each rank writes its slices, and any number of ranks can read them.

Files are safetensors; their metadata has the start of each entry in the flattened tensor and the whole
tensor's shape. So the same files serve any number of ranks and any ZeRO stage: a reader requests the slice
that it needs, which is assembled from the files that have it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from shards import json_text
from shards.errors import FmctError

_TYPES = {torch.float32: "F32", torch.int64: "I64"}
"""Supported types, with their names in safetensors."""


class Piece(NamedTuple):
    """A slice of a tensor, as a flat view of this rank's memory."""

    key: str
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    start: int
    """Start of the slice in the whole tensor, flattened in row-major order."""
    values: Tensor
    """1-d, the slice itself."""
    replicated: bool = False
    """Whether every rank holds the whole tensor, of which each writes a share."""

    def share(self, rank: int, world_size: int) -> "Piece":
        """The slice that this rank writes."""
        if not self.replicated:
            return self
        size = len(self.values)
        begin, end = rank * size // world_size, (rank + 1) * size // world_size
        return Piece(self.key, self.shape, begin, self.values[begin:end])


def whole_piece(key: str, tensor: Tensor) -> Piece:
    """A tensor that every rank holds whole; it must be contiguous."""
    return Piece(key, tuple(tensor.shape), 0, tensor.detach().view(-1), replicated=True)


def file_bytes(pieces: Sequence[Piece]) -> int:
    """Size of the file that `write_pieces` writes."""
    return len(_header(pieces)) + sum(piece.values.nbytes for piece in pieces)


def write_pieces(path: Path, pieces: Sequence[Piece]) -> None:
    """Write pieces, whose values are in host memory, to one file.

    An existing file is overwritten in place and keeps its allocated space; safetensors itself would write
    another file and rename it.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "wb") as file:
        file.write(_header(pieces))
        for piece in pieces:
            file.write(piece.values.view(torch.uint8).numpy().data)


def _header(pieces: Sequence[Piece]) -> bytes:
    """Header of a safetensors file: the length of a JSON object, and the object, padded to 8 bytes."""
    places = {piece.key: {"start": piece.start, "shape": piece.shape} for piece in pieces}
    entries: dict[str, object] = {"__metadata__": {"pieces": json.dumps(places)}}
    begin = 0
    for piece in pieces:
        end = begin + piece.values.nbytes
        entries[piece.key] = {
            "dtype": _TYPES[piece.values.dtype],
            "shape": [len(piece.values)],
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class PieceFiles:
    """The files of all ranks of a checkpoint."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._places: dict[str, list[tuple[int, Path]]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._files = {path: safe_open(path, "pt") for path in paths}
        for path, file in self._files.items():
            for key, place in json_text.parse(file.metadata()["pieces"]).items():
                self._places.setdefault(key, []).append((place["start"], path))
                self._shapes[key] = tuple(place["shape"])

    def keys(self, prefix: str) -> Iterator[str]:
        """The names of tensors that start with `prefix`."""
        return (key for key in self._shapes if key.startswith(prefix))

    def whole(self, key: str) -> Tensor:
        """A whole tensor; raises KeyError if it is missing."""
        slices = sorted(self._places[key])
        flat = torch.cat([self._files[path].get_tensor(key) for _, path in slices])
        return flat.reshape(self._shapes[key])

    @torch.no_grad()
    def fill(self, piece: Piece) -> None:
        """Read the piece's slice into its memory.

        Raises FmctError where the files do not have the tensor, or with another shape.
        """
        if self._shapes.get(piece.key) != piece.shape:
            shape = self._shapes.get(piece.key, "none")
            raise FmctError(f"{piece.key}: the checkpoint has {shape}, the model needs {piece.shape}")
        end, filled = piece.start + len(piece.values), 0
        for start, path in self._places[piece.key]:
            stored = self._files[path].get_slice(piece.key)
            low, high = max(start, piece.start), min(start + stored.get_shape()[0], end)
            if low < high:
                target = piece.values[low - piece.start : high - piece.start]
                target.copy_(stored[low - start : high - start])
                filled += high - low
        if filled != len(piece.values):
            raise FmctError(f"{piece.key}: the checkpoint has only {filled} of {len(piece.values)} elements")
