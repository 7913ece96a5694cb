"""Training data of heads: one encoder's patch tokens, and the masks resampled to cells."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.dense.cohort import Cohort
from fmct_hpc.dense.config import SegmentConfig
from fmct_hpc.dense.field import Cells
from fmct_hpc.dense.fit import ONE_SHARE
from fmct_hpc.fields import Edges
from fmct_hpc.probe.encoder_spec import EncoderSpec
from fmct_hpc.probe.encoders import Encoder, open_encoder
from fmct_hpc.probe.extraction import Extraction
from fmct_hpc.probe.features import extract_store
from fmct_hpc.probe.store import FeatureStore, held
from shards.errors import FmctError


@dataclass(frozen=True)
class Source:
    """One encoder, and its features of the cohort."""

    spec: EncoderSpec
    config: SegmentConfig
    cohort: Cohort

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder; raises FmctError if its patches have no grid."""
        encoder = open_encoder(self.spec)
        if encoder.grid is None:
            raise FmctError(
                f"encoder {self.spec.name}: segmentation requires a grid of patches (`grid` of a peer, "
                "model.keep_tokens=1 of this package's encoders)"
            )
        return encoder

    @property
    def grid(self) -> Edges:
        """Patches along (D, H, W)."""
        assert self.encoder.grid is not None
        return self.encoder.grid

    def extract(self) -> FeatureStore:
        """The store of its patch tokens; missing tokens are extracted."""
        request = Extraction(
            self.encoder,
            self.spec.name,
            self.cohort.volumes,
            rows=np.sort(self.cohort.rows),
            layers=self.config.layers,
            tokens=True,
            batch=self.config.batch,
            device=self.config.device,
            spec_digest=self.spec.digest(),
        )
        store = extract_store(request, self.config.features / self.spec.name)
        if store.info.patches != prod(self.grid):
            raise FmctError(
                f"{store.path}: {store.info.patches} tokens per volume do not match the grid {self.grid}; "
                f"correct `grid` of encoder {self.spec.name}"
            )
        return store

    def extracted(self) -> FeatureStore:
        """The store; FmctError if features are missing, since array tasks must not write the same store."""
        store = held(
            self.config.features / self.spec.name,
            self.encoder.digest,
            self.cohort.volumes.info.digest,
            self.encoder.poolings,
        )
        if store is None:
            raise FmctError(
                f"{self.config.features / self.spec.name}: not extracted yet; run with --extract -1 first"
            )
        return store

    def places(self, store: FeatureStore) -> NDArray[np.int64]:
        """The store's row of each volume of the cohort."""
        place = {key: row for row, key in enumerate(store.keys.tolist())}
        return np.array([place[key] for key in self.cohort.keys.tolist()], dtype=np.int64)

    @cached_property
    def cells(self) -> tuple[Cells, ...]:
        """The cells of each volume of the cohort."""
        count = tuple(edge * self.config.cells for edge in self.grid)
        cells_ = []
        for row in self.cohort.rows.tolist():
            volume = self.cohort.volumes.read(row)
            first, edges = self.encoder.field(volume, self.cohort.volumes.info.spacing_mm)
            cells_.append(Cells(first, edges, count, volume.shape))  # type: ignore[arg-type]
        return tuple(cells_)

    @cached_property
    def targets(self) -> NDArray[np.uint8]:
        """Each cell's share of each class in 255ths: (N, C, cells along D, H, W).

        One byte per cell: 3.3 GB for 100,000 volumes of one class and 32³ cells.
        """
        targets_ = [cells.shares(self.cohort.truth(row)) for row, cells in enumerate(self.cells)]
        return np.stack([np.rint(shares * ONE_SHARE).astype(np.uint8) for shares in targets_])
