"""Extraction of frozen features from the whole field of each volume, without augmentation."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fmct_hpc.model.execution import usable_device
from fmct_hpc.probe import store
from fmct_hpc.probe.encoders import Encoder
from fmct_hpc.probe.heads import pooled
from fmct_hpc.probe.store import FeatureRequest, FeatureStore, array_name
from fmct_hpc.train.export import require_same_preprocessing
from shards import Dataset, json_text
from shards.cores import usable_cores
from shards.errors import FmctError
from shards.ledger import Ledger
from shards.lock import writing
from shards.progress import Progress, register
from shards.share import WHOLE, Share

PART_VOLUMES = 256
"""Volumes per part: the most work that a killed process loses; 200 MB of patch tokens for ViT-B."""


def extract_store(
    encoder: Encoder,
    name: str,
    dataset: Dataset,
    out: Path,
    *,
    rows: NDArray[np.int64] | None = None,
    layers: Sequence[int] = (-1,),
    tokens: bool = False,
    batch: int = 8,
    device: str = "cpu",
    workers: int | None = None,
    spec_digest: str = "",
    task: tuple[int, int] | None = None,
    part_volumes: int = PART_VOLUMES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FeatureStore | None:
    """Extract features of a dataset's volumes with one encoder to the store `out`; finished parts are kept.

    name: the encoder's name in tables. rows: numbers of the volumes, None for all. layers: from 0, or from
    the end with -1 and so on. tokens: also store the patch tokens, in float16. workers: threads that read
    volumes; None: the process's cores, or 1 if the encoder runs on the CPU. spec_digest: recorded in the
    store. task: (i, n) extracts only the i-th of n shares of the parts and returns None; without it all
    missing parts are extracted and joined, and the store is returned. A store in `out` that holds everything
    requested is returned unchanged. If it lacks something, it is replaced by the union of both, so that
    cohorts and sweeps can share it. A store of another encoder or dataset is replaced.

    Raises FmctError for a layer that the encoder does not have, for volumes whose preprocessing differs from
    that of the encoder's training, and for a damaged shard.
    """
    rows = np.arange(len(dataset), dtype=np.int64) if rows is None else rows
    register("features", out, Share(*task) if task else WHOLE)
    if not len(rows):
        raise FmctError(f"{dataset.path}: no volumes to extract features from")
    require_same_preprocessing(dataset, encoder.preprocess_digest, encoder.preprocessing, f"encoder {name}")
    wanted = _Wanted(rows, _numbers(layers, encoder.depth, name), tokens)
    held = store.held(out, encoder.digest, dataset.info.digest, encoder.poolings)
    if held:
        there = _Wanted.of(held, dataset)
        if wanted.is_part_of(there):
            if held.info.spec_digest != spec_digest and task is None:
                held.info.model_copy(update={"spec_digest": spec_digest}).write(out)
            return held
        wanted = wanted.joined_with(there)
    rows = wanted.rows
    runs_on = usable_device(device)
    workers = workers or (1 if runs_on.type == "cpu" else usable_cores())
    index = dataset.index.select(store.KEYS).take(rows)
    request = wanted.request(encoder, dataset.info.digest, index["key"].to_pylist())
    starts = range(0, len(rows), part_volumes)
    extents = [(start, min(start + part_volumes, len(rows))) for start in starts]
    parts = [store.part_path(out, request, *extent) for extent in extents]
    whole = Ledger(range(len(parts)), lambda number: store.part_is_done(parts[number], request))
    own = whole.share(Share(*task) if task else WHOLE)
    done = total = 0

    def prepare(missing: list[int]) -> None:
        nonlocal total
        total = sum(extents[number][1] - extents[number][0] for number in missing)

    def make(number: int) -> None:
        nonlocal done
        part_rows = rows[slice(*extents[number])]
        pieces: dict[str, list[NDArray[np.generic]]] = {array: [] for array in request.arrays()}
        patches = 0
        for outputs in _batches(encoder, dataset, part_rows, request.layers, batch, runs_on, workers):
            patches = outputs[0].shape[1] - encoder.prefix
            for array, values in _pooled(encoder, request, outputs).items():
                pieces[array].append(values)
            done += len(outputs[0])
            progress(done, total)
        joined = {array: np.concatenate(values) for array, values in pieces.items()}
        store.write_part(parts[number], request, joined, patches)

    with writing(out, "the extraction of features", shared=task is not None):
        own.make(make, prepare=prepare)
        if task is not None:
            return None
        return store.collect(out, request, parts, index, name, encoder.step, encoder.depth, spec_digest)


def progress(out: Path, share: Share = WHOLE) -> Progress:
    """The number of volumes with features in the store `out`, joined or in the parts of a share."""
    try:
        joined = int(json_text.parse((out / store.FILE_NAME).read_bytes())["volumes"])
    except (OSError, ValueError, KeyError, TypeError):
        joined = 0
    extents = [map(int, marker.name.split("-")[:2]) for marker in (out / "parts").glob("[0-9]*.json")]
    kept = sum(stop - start for start, stop in extents if share.has(start // PART_VOLUMES))
    return Progress(joined + kept, unit="volume")


@dataclass(frozen=True)
class _Wanted:
    """A set of requested or stored features."""

    rows: NDArray[np.int64]
    """Numbers of the volumes."""
    layers: tuple[int, ...]
    """From 0, ascending."""
    tokens: bool
    """Patch tokens too."""

    @classmethod
    def of(cls, held: FeatureStore, dataset: Dataset) -> "_Wanted":
        """The features in a store of the dataset's volumes."""
        place = {key: row for row, key in enumerate(dataset.index["key"].to_pylist())}
        rows = np.array([place[key] for key in held.keys.tolist()], dtype=np.int64)
        return cls(rows, held.info.layers, held.info.request.tokens)

    def is_part_of(self, other: "_Wanted") -> bool:
        """Whether `other` contains all of these features."""
        less = set(self.layers) <= set(other.layers) and self.tokens <= other.tokens
        return less and bool(np.isin(self.rows, other.rows).all())

    def joined_with(self, other: "_Wanted") -> "_Wanted":
        """The union of both."""
        layers = tuple(sorted({*self.layers, *other.layers}))
        return _Wanted(np.union1d(self.rows, other.rows), layers, self.tokens or other.tokens)

    def request(self, encoder: Encoder, dataset_digest: str, keys: Sequence[str]) -> FeatureRequest:
        """The request as recorded in a store; keys: the volumes' keys."""
        return FeatureRequest(
            encoder_digest=encoder.digest,
            dataset_digest=dataset_digest,
            keys_digest=hashlib.sha256("\n".join(keys).encode()).hexdigest(),
            layers=self.layers,
            poolings=encoder.poolings,
            tokens=self.tokens,
        )


def _numbers(layers: Sequence[int], depth: int, name: str) -> tuple[int, ...]:
    for layer in layers:
        if not -depth <= layer < depth:
            raise FmctError(f"layer {layer}: encoder {name} has layers 0 to {depth - 1}")
    return tuple(sorted({layer % depth for layer in layers}))


@torch.inference_mode()
def _batches(
    encoder: Encoder,
    dataset: Dataset,
    rows: NDArray[np.int64],
    layers: Sequence[int],
    batch: int,
    device: torch.device,
    workers: int,
) -> Iterator[list[torch.Tensor]]:
    """Yield the tokens of each of `layers`, batch by batch: float32 (B, prefix + N, width)."""
    encoder.module.to(device).eval()
    for images in inputs_of(encoder, dataset, rows, batch, workers):
        on_device = images.to(device, non_blocking=True)
        yield [tokens.float() for tokens in encoder.tokens(on_device, layers)]


def inputs_of(
    encoder: Encoder, dataset: Dataset, rows: NDArray[np.int64], batch: int, workers: int
) -> Iterator[torch.Tensor]:
    """Yield batches of inputs, prefetched by threads, since decoding and windowing release the GIL."""

    def read(row: int) -> torch.Tensor:
        return encoder.transform(dataset.read(row), dataset.info.spacing_mm)

    with ThreadPoolExecutor(workers) as pool:
        waiting = iter(rows.tolist())
        ahead = deque(pool.submit(read, row) for row in islice(waiting, batch + workers))
        while ahead:
            images: list[torch.Tensor] = []
            while ahead and len(images) < batch:
                images.append(ahead.popleft().result())
                ahead.extend(pool.submit(read, row) for row in islice(waiting, 1))
            yield torch.stack(images)


def _pooled(
    encoder: Encoder, request: FeatureRequest, outputs: list[torch.Tensor]
) -> dict[str, NDArray[np.generic]]:
    """The arrays to store from a batch's tokens after each layer."""
    kept: dict[str, NDArray[np.generic]] = {}
    for layer, tokens in zip(request.layers, outputs, strict=True):
        patches = tokens[:, encoder.prefix :]
        if request.tokens:
            kept[array_name(layer, "tokens")] = patches.half().cpu().numpy()
        for pooling in request.poolings:
            kept[array_name(layer, pooling)] = pooled(tokens, encoder.prefix, (pooling,)).cpu().numpy()
    return kept
