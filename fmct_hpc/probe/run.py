"""A probe from end to end: features, patient-level cross-validation, areas under the curve, tables."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel
from sklearn.model_selection import StratifiedGroupKFold

from fmct_hpc.config import ProbeConfig, TrainConfig
from fmct_hpc.probe.features import extract
from fmct_hpc.probe.heads import linear, nearest_neighbours
from fmct_hpc.probe.statistics.area import Ranking
from fmct_hpc.probe.statistics.bootstrap import bootstrap
from fmct_hpc.probe.statistics.scored import Scored
from fmct_hpc.train.checkpoint import MANIFEST, checkpoint_path, mark_score
from fmct_hpc.train.export import export_checkpoint, load_encoder
from fmct_hpc.train.start import untrained_encoder
from shards import Dataset, FmctError
from shards.atomic import atomic_path, write_text
from shards.info import sha256

log = logging.getLogger(__name__)

HEADS = {"linear": linear, "kNN": nearest_neighbours}
ENCODERS = ("trained", "untrained")


class Row(BaseModel):
    """One line of the result table: an encoder under a classifier on a task."""

    task: str
    head: str
    encoder: str
    volumes: int
    positives: int
    auc: tuple[float, float, float]
    """Value, low and high end of the interval."""
    gain: tuple[float, float, float]
    """AUC above the untrained encoder's, over the same resamples of patients."""


class ProbeResult(BaseModel):
    """What a probe found, and what it was found on."""

    rows: list[Row]
    skipped: dict[str, str]
    """Tasks without enough of both classes, and why."""
    patients: int
    pretrained_patients: int | None
    """How many of them were in the pretraining data (without labels); None if that data is not at hand."""
    confidence: float
    step: int
    encoder_digest: str

    def table(self) -> str:
        """The rows as aligned text."""
        area = f"AUC [{self.confidence:.0%} interval]"
        lines = [f"{'task':<20} {'head':<7} {'encoder':<10} {'n':>5} {'pos':>5}  {area}"]
        for row in self.rows:
            value, low, high = row.auc
            lines.append(
                f"{row.task:<20} {row.head:<7} {row.encoder:<10} {row.volumes:>5} {row.positives:>5}  "
                f"{value:.3f} [{low:.3f}, {high:.3f}]"
            )
        lines += [f"{task}: not probed, {reason}" for task, reason in self.skipped.items()]
        return "\n".join(lines)


def probe(run: Path, config: ProbeConfig, out: Path, progress: Callable[[int, int], None]) -> ProbeResult:
    """Probe the encoder of a run, or other folder, beside the same model untrained; write results to `out`.

    run: a run folder, for the encoder of its end, or one of its checkpoints (run/checkpoints/step-...), of
    which the encoder is then written to `out`. Pruning keeps the run's best-probed checkpoint.

    Writes results.json, predictions.parquet (one row a volume, task, head and encoder; keys only).
    Raises FmctError when there is no encoder yet, no volume has a label, or the volumes were
    preprocessed in another way than those the encoder was trained on.
    """
    dataset = Dataset.open(config.data)
    checkpoint = run if (run / MANIFEST).exists() else None
    if checkpoint:
        export_checkpoint(checkpoint, out)
        run = checkpoint.resolve().parents[1]
    exported = (out if checkpoint else run) / "encoder.safetensors"
    trained, info = load_encoder(exported)
    if info.preprocess_digest not in (None, dataset.info.config_digest):
        raise FmctError(
            f"{config.data}: preprocessed with another configuration than the encoder's training data; "
            "run `fmct preprocess` with the recipe that the encoder was trained with"
        )
    untrained = untrained_encoder(info, config.seed)
    labels = _read_labels(config.labels)
    rows, values = _join(dataset, labels, config.labels)
    patient_keys = np.asarray(dataset.index["patient_key"].to_pylist())[rows]
    patients = _numbered(patient_keys)

    features = extract([trained, untrained], info.data, dataset, rows, config.batch, progress)
    keys = np.asarray(dataset.index["key"].to_pylist())[rows]
    table: list[Row] = []
    skipped: dict[str, str] = {}
    predictions: list[pa.Table] = []
    for task, column in values.items():
        known = np.flatnonzero(~np.isnan(column))
        reason = _too_few(column[known], patients[known], config.folds)
        if reason:
            log.warning("task %s is not probed: %s", task, reason)
            skipped[task] = reason
            continue
        task_rows, task_predictions = _probe_task(
            task,
            [f[known] for f in features],
            column[known] == 1,
            _numbered(patients[known]),
            keys[known],
            config,
        )
        table += task_rows
        predictions += task_predictions
    if not table:
        raise FmctError(f"{config.labels}: no task has enough labelled patients of both classes: {skipped}")

    result = ProbeResult(
        rows=table,
        skipped=skipped,
        patients=int(patients.max()) + 1,
        pretrained_patients=_seen_in_pretraining(run, set(patient_keys)),
        confidence=config.confidence,
        step=info.step,
        encoder_digest=sha256(exported),
    )
    with atomic_path(out / "predictions.parquet") as temporary:
        pq.write_table(pa.concat_tables(predictions), temporary)
    write_text(out / "results.json", json.dumps(result.model_dump(), indent=1))
    checkpoint = checkpoint or checkpoint_path(run, info.step)
    if checkpoint.exists():
        areas = [row.auc[0] for row in table if (row.head, row.encoder) == ("linear", "trained")]
        mark_score(checkpoint, sum(areas) / len(areas), "mean AUC of the linear probe")
    return result


def _probe_task(
    task: str,
    features: list[NDArray[np.float32]],
    labels: NDArray[np.bool_],
    patients: NDArray[np.int64],
    keys: NDArray[np.str_],
    config: ProbeConfig,
) -> tuple[list[Row], list[pa.Table]]:
    """Cross-validate each head on each encoder's features of one task."""
    splitter = StratifiedGroupKFold(config.folds, shuffle=True, random_state=config.seed)
    splits = list(splitter.split(labels, labels, groups=patients))
    folds = np.empty(len(labels), dtype=np.int64)
    for number, (_, test) in enumerate(splits):
        folds[test] = number
    rows: list[Row] = []
    predictions: list[pa.Table] = []
    for head, make in HEADS.items():
        classifier = make(config)
        scores = [np.empty(len(labels)) for _ in features]
        for encoder_features, encoder_scores in zip(features, scores, strict=True):
            for train, test in splits:
                encoder_scores[test] = classifier(
                    encoder_features[train], labels[train], patients[train], encoder_features[test]
                )
        rankings = [Ranking(Scored(s, labels, patients, folds)) for s in scores]
        draws, _ = bootstrap(rankings, int(patients.max()) + 1, config.bootstrap, config.seed)
        for encoder, encoder_scores, drawn in zip(ENCODERS, scores, draws, strict=True):
            auc = drawn.interval(config.confidence)
            gain = (drawn - draws[-1]).interval(config.confidence)
            rows.append(
                Row(
                    task=task,
                    head=head,
                    encoder=encoder,
                    volumes=len(labels),
                    positives=int(labels.sum()),
                    auc=(auc.value, auc.low, auc.high),
                    gain=(gain.value, gain.low, gain.high),
                )
            )
            constant = {"task": task, "head": head, "encoder": encoder}
            columns = {name: pa.array([value] * len(labels)) for name, value in constant.items()}
            predictions.append(
                pa.table({**columns, "key": keys, "fold": folds, "label": labels, "score": encoder_scores})
            )
    return rows, predictions


def _numbered(patients: NDArray[Any]) -> NDArray[np.int64]:
    """From 0, without a gap."""
    return np.unique(patients, return_inverse=True)[1].astype(np.int64)


def _read_labels(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid):
        raise FmctError(f"{path}: no readable label table; make it with `fmct labels`") from None
    if "study_key" not in table.column_names or table.num_columns < 2:
        raise FmctError(f"{path}: expected study_key and label columns; make it with `fmct labels`")
    return table


def _join(
    dataset: Dataset, labels: pa.Table, path: Path
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Dataset rows that have a label row, and each task's values for them (NaN where unknown)."""
    place = {key: i for i, key in enumerate(labels["study_key"].to_pylist())}
    studies = dataset.index["study_key"].to_pylist()
    rows = np.array([row for row, study in enumerate(studies) if study in place], dtype=np.int64)
    if not len(rows):
        raise FmctError(
            f"{path}: none of its studies is in the dataset; were both made with the same key file?"
        )
    log.info("%d of %d volumes have labels; %d labelled studies", len(rows), len(studies), len(place))
    order = [place[studies[row]] for row in rows]
    tasks = [name for name in labels.column_names if name != "study_key"]
    return rows, {
        task: labels[task].cast(pa.float64()).to_numpy(zero_copy_only=False)[order] for task in tasks
    }


def _too_few(column: NDArray[np.float64], patients: NDArray[np.int64], folds: int) -> str | None:
    """Why a task can't be cross-validated, or None: each fold, and its inner folds, need both classes."""
    needed = 2 * folds
    for value, name in ((1, "positive"), (0, "negative")):
        found = len(np.unique(patients[column == value]))
        if found < needed:
            return f"{found} {name} patients, at least {needed} are needed"
    return None


def _seen_in_pretraining(run: Path, patients: set[str]) -> int | None:
    if not (run / "config.json").exists():  # weights from elsewhere
        return None
    training = TrainConfig.model_validate_json((run / "config.json").read_bytes())
    try:
        seen = set(Dataset.open(training.data.path).index["patient_key"].to_pylist())
    except FmctError:
        return None
    overlap = len(patients & seen)
    if overlap:
        log.warning(
            "%d of %d probed patients were in the pretraining data (unlabelled)", overlap, len(patients)
        )
    return overlap
