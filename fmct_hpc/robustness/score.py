"""Scores of classifiers for the tested volumes with one change, computed in batches and stored."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from fmct_hpc.model.execution import usable_device
from fmct_hpc.probe.cohort import Cohort
from fmct_hpc.probe.encoders import Encoder
from fmct_hpc.probe.forward import inputs_of
from fmct_hpc.probe.heads import Head, pooled
from fmct_hpc.robustness.changes import CHANGES, Draw, changed
from fmct_hpc.robustness.classifiers import ClassifierGroup
from fmct_hpc.robustness.config import RobustnessConfig
from fmct_hpc.train.export import require_same_preprocessing
from shards import Dataset
from shards.atomic import atomic_path
from shards.cores import usable_cores
from shards.errors import FmctError, raise_refusal

VERSION = 1
"""Increase it with every change of the scores for the same inputs; all scores are then recomputed."""
UNCHANGED = (next(iter(CHANGES)), 0.0)
"""A change of severity 0: the unchanged volumes."""
SCHEMA = pa.schema([("judge", pa.int32()), ("row", pa.int64()), ("said", pa.list_(pa.float64()))])
Scores = list[NDArray[np.float64]]
"""For each classifier (N, P): the tested rows of its folds, concatenated; P is 1 for binary labels."""


class ChangedDataset(Dataset):
    """A dataset whose volumes are changed when they are read; its pickle is the unchanged dataset."""

    def __init__(self, dataset: Dataset, change: str, severity: float, seed: int) -> None:
        super().__init__(dataset.path, dataset.info, dataset.index)
        self._change, self._severity, self._seed = change, severity, seed

    def read(self, i: int) -> np.ndarray:
        """HU of a volume with the change, int16 (D, H, W)."""
        draw = Draw(self._seed, self.record(i).key)
        return changed(super().read(i), self.info.spacing_mm, self._change, self._severity, draw)


def scores_file(out: Path, group: ClassifierGroup, change: str, severity: float, seed: int) -> Path:
    """Path of a group's scores for a change; its name is a digest of everything on which they depend."""
    about = [VERSION, group.digest, change, severity, *([seed] if change == "noise" else [])]
    return out / "units" / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]}.parquet"


def write_scores(
    path: Path,
    group: ClassifierGroup,
    encoder: Encoder,
    heads: Sequence[Sequence[Head]],
    change: str,
    severity: float,
    config: RobustnessConfig,
    cohort: Cohort,
    progress: Callable[[int], None],
) -> None:
    """Score the tested volumes with a change and write the scores to `path`.

    encoder, heads: results of the group's `open` and `fit`. progress: called with the size of each batch.

    Raises FmctError for damaged volumes, and if their preprocessing differs from the encoder's.
    """
    device = usable_device(config.device)
    dataset = ChangedDataset(Dataset.open(config.data), change, severity, config.changes.seed)
    require_same_preprocessing(
        dataset, encoder.preprocess_digest, encoder.preprocessing, f"encoder {group.name}"
    )
    encoder.module.to(device).eval()
    tests = [
        [classifier.tests(fold) for fold in range(len(classifier.cell.folds))]
        for classifier in group.classifiers
    ]
    wanted = np.unique(np.concatenate([rows for of_judge in tests for rows in of_judge]))
    layers = sorted({classifier.layer % encoder.depth for classifier in group.classifiers})
    scores: list[list[NDArray[np.float64] | None]] = [[None] * len(folds) for folds in tests]
    workers, done = 1 if device.type == "cpu" else usable_cores(), 0
    for images in inputs_of(encoder, dataset, cohort.rows[wanted], config.batch, workers):
        batch = wanted[done : done + len(images)]
        done += len(batch)
        outputs = _outputs(encoder, group.rounded, images.to(device, non_blocking=True), layers)
        read: dict[tuple[int, tuple[str, ...]], NDArray[np.floating]] = {}
        for number, classifier in enumerate(group.classifiers):
            layer_and_pools = classifier.layer % encoder.depth, classifier.pools
            if layer_and_pools not in read:
                tokens = outputs[layers.index(layer_and_pools[0])]
                read[layer_and_pools] = _read(tokens, encoder.prefix, classifier.pools)
            for fold, rows in enumerate(tests[number]):
                inside = np.isin(batch, rows)
                if not inside.any():
                    continue
                predicted = heads[number][fold].predicted(read[layer_and_pools][inside], classifier.cell.kind)
                predicted = predicted.reshape(len(predicted), -1)
                own = scores[number][fold]
                if own is None:
                    own = scores[number][fold] = np.full((len(rows), predicted.shape[1]), np.nan)
                order = np.argsort(rows)
                own[order[np.searchsorted(rows[order], batch[inside])]] = predicted
        progress(len(batch))
    tables = [
        pa.table({"judge": np.full(len(rows), number), "row": rows, "said": own.tolist()}).cast(SCHEMA)
        for number, (folds, of_judge) in enumerate(zip(tests, scores, strict=True))
        for rows, own in zip(folds, of_judge, strict=True)
        if own is not None
    ]
    with atomic_path(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary, compression="zstd")


def tested_volumes(group: ClassifierGroup) -> int:
    """Number of volumes to encode for one change."""
    rows = [
        classifier.tests(fold)
        for classifier in group.classifiers
        for fold in range(len(classifier.cell.folds))
    ]
    return len(np.unique(np.concatenate(rows))) if rows else 0


@torch.inference_mode()
def _outputs(encoder: Encoder, rounded: bool, images: torch.Tensor, layers: list[int]) -> list[torch.Tensor]:
    """Tokens after each layer, float32 (B, prefix + N, width)."""
    images = images.half().float() if rounded else images
    return [tokens.float() for tokens in encoder.tokens(images, layers)]


def _read(tokens: torch.Tensor, prefix: int, pools: tuple[str, ...]) -> NDArray[np.floating]:
    """The input of heads, as stored in a feature store."""
    if not pools:
        return tokens[:, prefix:].half().cpu().numpy()
    return pooled(tokens, prefix, pools).cpu().numpy()


def read_scores(path: Path, group: ClassifierGroup) -> Scores:
    """Read a file of `write_scores`; raises FmctError if missing, damaged, or of other volumes."""
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (OSError, pa.ArrowInvalid) as error:
        raise_refusal(error, path)
        raise FmctError(f"{path}: missing or damaged; remove it, and run the same command again") from None
    classifiers, rows = table["judge"].to_numpy(), table["row"].to_numpy()
    scores = []
    for number, classifier in enumerate(group.classifiers):
        own = np.flatnonzero(classifiers == number)
        tested = np.concatenate([classifier.tests(fold) for fold in range(len(classifier.cell.folds))])
        if not np.array_equal(rows[own], tested):
            raise FmctError(f"{path}: from other volumes; remove it, and run the same command again")
        scores.append(np.array(table["said"].take(own).to_pylist(), np.float64).reshape(len(own), -1))
    return scores
