"""What to extract: the request for one encoder's features, and its union with what a store already holds."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.encoders import Encoder
from fmct_hpc.probe.store import FeatureRequest, FeatureStore
from shards import Dataset
from shards.errors import FmctError

PART_VOLUMES = 256
"""Volumes per part: the most work that a killed process loses; 200 MB of patch tokens for ViT-B."""


@dataclass(frozen=True)
class Extraction:
    """A request for one encoder's features of volumes of a dataset, and how to compute them."""

    encoder: Encoder
    name: str
    """The encoder's name in tables."""
    dataset: Dataset
    rows: NDArray[np.int64] | None = None
    """Numbers of the volumes; None: all."""
    layers: Sequence[int] = (-1,)
    """From 0, or from the end with -1 and so on."""
    tokens: bool = False
    """Also store the patch tokens, in float16."""
    spec_digest: str = ""
    """`EncoderSpec.digest`, recorded in the store."""
    batch: int = 8
    """Volumes per forward pass."""
    device: str = "cpu"
    workers: int | None = None
    """Threads that read volumes; None: the process's cores, or 1 if the encoder runs on the CPU."""
    part_volumes: int = PART_VOLUMES

    @property
    def wanted(self) -> "FeatureSet":
        """The requested features; FmctError for a layer that the encoder does not have."""
        rows, depth = self.rows, self.encoder.depth
        for layer in self.layers:
            if not -depth <= layer < depth:
                raise FmctError(f"layer {layer}: encoder {self.name} has layers 0 to {depth - 1}")
        return FeatureSet(
            np.arange(len(self.dataset), dtype=np.int64) if rows is None else rows,
            tuple(sorted({layer % depth for layer in self.layers})),
            self.tokens,
        )


@dataclass(frozen=True)
class FeatureSet:
    """A set of requested or stored features."""

    rows: NDArray[np.int64]
    """Numbers of the volumes."""
    layers: tuple[int, ...]
    """From 0, ascending."""
    tokens: bool
    """Patch tokens too."""

    @classmethod
    def of(cls, held: FeatureStore, dataset: Dataset) -> "FeatureSet":
        """The features in a store of the dataset's volumes."""
        place = {key: row for row, key in enumerate(dataset.index["key"].to_pylist())}
        rows = np.array([place[key] for key in held.keys.tolist()], dtype=np.int64)
        return cls(rows, held.info.layers, held.info.request.tokens)

    def is_part_of(self, other: "FeatureSet") -> bool:
        """Whether `other` contains all of these features."""
        less = set(self.layers) <= set(other.layers) and self.tokens <= other.tokens
        return less and bool(np.isin(self.rows, other.rows).all())

    def joined_with(self, other: "FeatureSet") -> "FeatureSet":
        """The union of both."""
        layers = tuple(sorted({*self.layers, *other.layers}))
        return FeatureSet(np.union1d(self.rows, other.rows), layers, self.tokens or other.tokens)

    def recorded(self, encoder: Encoder, dataset: Dataset) -> FeatureRequest:
        """The request as recorded in a store of the encoder's features."""
        keys = dataset.index["key"].take(self.rows).to_pylist()
        return FeatureRequest(
            encoder_digest=encoder.digest,
            dataset_digest=dataset.info.digest,
            keys_digest=hashlib.sha256("\n".join(keys).encode()).hexdigest(),
            layers=self.layers,
            poolings=encoder.poolings,
            tokens=self.tokens,
        )
