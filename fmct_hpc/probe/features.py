"""Extraction of frozen features from the whole field of each volume, without augmentation."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from fmct_hpc.model.execution import usable_device
from fmct_hpc.probe import store
from fmct_hpc.probe.extraction import PART_VOLUMES, Extraction, FeatureSet
from fmct_hpc.probe.forward import Arrays, arrays_of, inputs_of
from fmct_hpc.probe.store import FeatureRequest, FeatureStore
from fmct_hpc.train.export import require_same_preprocessing
from shards import json_text
from shards.cores import usable_cores
from shards.errors import FmctError
from shards.ledger import Ledger
from shards.lock import writing
from shards.progress import Progress, register
from shards.share import WHOLE, Share

Report = Callable[[int, int], None]
WRITER = "the extraction of features"


def _silent(done: int, total: int) -> None:
    pass


def extract_store(request: Extraction, out: Path, progress: Report = _silent) -> FeatureStore:
    """Extract the features of `request` to the store `out`; finished parts are kept.

    A store in `out` that holds everything requested is returned unchanged. If it lacks something, it is
    replaced by the union of both, so that cohorts and sweeps can share it. A store of another encoder or
    dataset is replaced. progress: called with (volumes done, volumes to do) after each batch.

    Raises FmctError for a layer that the encoder does not have, for volumes whose preprocessing differs from
    that of the encoder's training, and for a damaged shard.
    """
    register("features", out)
    wanted, held = _wanted(request, out)
    if held is not None:
        if held.info.spec_digest != request.spec_digest:
            held.info.model_copy(update={"spec_digest": request.spec_digest}).write(out)
        return held
    parts = _Parts(request, wanted, out, usable_device(request.device))
    with writing(out, WRITER):
        parts.make(WHOLE, progress)
        return parts.collect()


def extract_share(request: Extraction, out: Path, share: Share, progress: Report = _silent) -> None:
    """Extract a share of the parts, for a job array; `extract_store` joins them. Raises as it does."""
    register("features", out, share)
    wanted, held = _wanted(request, out)
    if held is not None:
        return
    parts = _Parts(request, wanted, out, usable_device(request.device))
    with writing(out, WRITER, shared=True):
        parts.make(share, progress)


def progress(out: Path, share: Share = WHOLE) -> Progress:
    """The number of volumes with features in the store `out`, joined or in the parts of a share."""
    try:
        joined = int(json_text.parse((out / store.FILE_NAME).read_bytes())["volumes"])
    except (OSError, ValueError, KeyError, TypeError):
        joined = 0
    extents = [map(int, marker.name.split("-")[:2]) for marker in (out / "parts").glob("[0-9]*.json")]
    kept = sum(stop - start for start, stop in extents if share.has(start // PART_VOLUMES))
    return Progress(joined + kept, unit="volume")


def _wanted(request: Extraction, out: Path) -> tuple[FeatureSet, FeatureStore | None]:
    """What the store has to hold, and the store in `out` if it already holds all of it."""
    encoder, dataset = request.encoder, request.dataset
    if not (len(dataset) if request.rows is None else len(request.rows)):
        raise FmctError(f"{dataset.path}: no volumes to extract features from")
    require_same_preprocessing(
        dataset, encoder.preprocess_digest, encoder.preprocessing, f"encoder {request.name}"
    )
    wanted = request.wanted
    held = store.held(out, encoder.digest, dataset.info.digest, encoder.poolings)
    if held is None:
        return wanted, None
    there = FeatureSet.of(held, dataset)
    return (there, held) if wanted.is_part_of(there) else (wanted.joined_with(there), None)


@dataclass(frozen=True)
class _Parts:
    """The parts of a store, each with the features of some volumes, and their ledger."""

    request: Extraction
    wanted: FeatureSet
    out: Path
    device: torch.device

    @cached_property
    def recorded(self) -> FeatureRequest:
        return self.wanted.recorded(self.request.encoder, self.request.dataset)

    @cached_property
    def extents(self) -> list[tuple[int, int]]:
        """The volumes of each part, [start, stop) in the order of `wanted.rows`."""
        count, size = len(self.wanted.rows), self.request.part_volumes
        return [(start, min(start + size, count)) for start in range(0, count, size)]

    @cached_property
    def paths(self) -> list[Path]:
        return [store.part_path(self.out, self.recorded, *extent) for extent in self.extents]

    @property
    def ledger(self) -> Ledger[int, bool]:
        """The ledger of part numbers."""
        return Ledger(range(len(self.paths)), lambda n: store.part_is_done(self.paths[n], self.recorded))

    def make(self, share: Share, report: Report) -> None:
        """Extract the missing parts of a share."""
        missing = self.ledger.share(share).missing()
        total = sum(stop - start for start, stop in (self.extents[number] for number in missing))
        done = 0

        def advance(batch: int) -> None:
            nonlocal done
            done += batch
            report(done, total)

        for number in missing:
            self._extract(number, advance)

    def _extract(self, number: int, advance: Callable[[int], None]) -> None:
        """Write one part. advance: called with the volumes of each batch."""
        request, encoder = self.request, self.request.encoder
        workers = request.workers or (1 if self.device.type == "cpu" else usable_cores())
        rows = self.wanted.rows[slice(*self.extents[number])]
        batches: list[Arrays] = []
        patches = 0
        encoder.module.to(self.device).eval()
        for images in inputs_of(encoder, request.dataset, rows, request.batch, workers):
            kept, patches = arrays_of(encoder, self.recorded, images, self.device)
            batches.append(kept)
            advance(len(images))
        joined = {name: np.concatenate([kept[name] for kept in batches]) for name in self.recorded.arrays()}
        store.write_part(self.paths[number], self.recorded, joined, patches)

    def collect(self) -> FeatureStore:
        """Join all parts."""
        request = self.request
        return store.collect(
            self.out,
            self.recorded,
            self.paths,
            request.dataset.index.select(store.KEYS).take(self.wanted.rows),
            request.name,
            request.encoder.step,
            request.encoder.depth,
            request.spec_digest,
        )
