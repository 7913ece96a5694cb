"""Predictions of an exported classifier for new scans."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fmct_hpc.classifier import studies
from fmct_hpc.classifier.folder import read_classifier
from fmct_hpc.classifier.record import ClassifierRecord, StudyRecord, TaskRecord
from fmct_hpc.inference.readers import Scan, Source, in_groups, read_source
from fmct_hpc.model.execution import usable_device
from fmct_hpc.probe.encoders import OurEncoder
from fmct_hpc.probe.heads import Head, pooled
from fmct_hpc.probe.kinds import Kind
from fmct_hpc.probe.methods.registry import METHODS
from fmct_hpc.probe.statistics.scored import FloatArray
from fmct_hpc.train.export import EncoderInfo


class Answer(NamedTuple):
    """Prediction for one task."""

    score: float
    """The classifier's score, as in the sweep."""
    probability: float | None
    """The score recalibrated on validation volumes; None if a class was missing there."""
    positive: bool | None
    """Whether the score reaches the threshold of maximum balanced accuracy; None without a threshold."""
    kind: str = "binary"
    value: float | None = None
    """For labels that are not binary: the class or value; None for a time to event, whose score is a risk."""
    probabilities: tuple[float, ...] | None = None
    """Class probabilities, in the order of the record's classes."""


@dataclass(frozen=True)
class Prediction:
    """Predictions for one scan, or for one study."""

    key: str
    """The key of a shard dataset's volume; for other scans the first digits of the source digest. For a
    study, the key of its best scan."""
    answers: dict[str, Answer]
    """By label column; empty if there is a `reason`."""
    study_key: str | None = None
    """HMAC of the study, as in label tables, from a shard dataset or computed with `key_file`; else None."""
    patient_key: str | None = None
    flags: tuple[str, ...] | None = None
    """Findings of the preprocessing checks; None for volumes of shard datasets, whose manifest has them."""
    roles: tuple[str, ...] | None = None
    """Roles of the study's series that were used; None for a scan."""
    missing_roles: tuple[str, ...] | None = None
    """Roles present in training and missing in this study."""
    reason: str | None = None
    """Reason why a study has no answers."""


@dataclass(frozen=True)
class Classifier:
    """An encoder with the heads fitted on it; see `load_classifier`."""

    record: ClassifierRecord
    encoder: OurEncoder
    heads: tuple[Head, ...]

    def predict(
        self,
        source: Source,
        *,
        affine: NDArray[np.float64] | None = None,
        batch: int = 4,
        device: str = "cpu",
        key_file: Path | str | None = None,
    ) -> Iterator[Prediction]:
        """Yield predictions for the head CTs at `source`, with the preprocessing of the encoder's training.

        source, affine, key_file: as in `fmct_hpc.features`. batch: scans per forward pass. Raises FmctError
        with the reason for a source without a head CT that the encoder accepts; for one of several sources or
        files, after all others.
        """
        key = Path(key_file) if key_file else None
        of_studies = self.record.of_studies is not None
        return self.of_scans(read_source(source, self.reads, affine, key, of_studies), batch, device)

    @property
    def reads(self) -> EncoderInfo:
        """The preprocessing for new exams: the encoder's, or, for studies, that of their training volumes."""
        info, studied = self.encoder.info, self.record.of_studies
        if studied is None or studied.preprocessing is None:
            return info
        record = {"preprocessing": studied.preprocessing, "preprocess_digest": studied.preprocess_digest}
        return info.model_copy(update=record)

    def of_scans(self, scans: Iterable[Scan], batch: int = 4, device: str = "cpu") -> Iterator[Prediction]:
        """Yield predictions for scans from `fmct_hpc.inference.readers`, grouped by study for studies."""
        if self.record.of_studies is not None:
            yield from self._of_studies(scans, self.record.of_studies, batch, device)
            return
        for group, inputs in self._encoded(scans, batch, device):
            for scan, answers in zip(group, self._answers(partial(_predicted, inputs)), strict=True):
                yield Prediction(scan.key, answers, scan.study_key, scan.patient_key, scan.flags)

    def _of_studies(
        self, scans: Iterable[Scan], record: StudyRecord, batch: int, device: str
    ) -> Iterator[Prediction]:
        """Yield one prediction per study."""
        groups = self._encoded(studies.studies(scans, record.sample == "best"), batch, device)
        encoded = (studies.Encoded(*one) for group in groups for one in zip(*group, strict=True))
        for study in studies.by_study(encoded):
            first = study[0].scan
            keys = first.study_key, first.patient_key, studies.flags_of(study)
            if any(one.scan.several_patients for one in study):
                yield Prediction(first.key, {}, *keys, reason=studies.SEVERAL_PATIENTS)
                continue
            (answers,) = self._answers(partial(studies.predicted, study, record=record))
            roles = studies.roles_of(study), studies.missing(study, record)
            yield Prediction(first.key, answers, *keys, *roles)

    def _encoded(
        self, scans: Iterable[Scan], batch: int, device: str
    ) -> Iterator[tuple[list[Scan], NDArray[np.floating[Any]]]]:
        """Yield groups of scans with the inputs of the heads."""
        place = usable_device(device)
        self.encoder.module.to(place).eval()
        for group in in_groups(scans, batch):
            views = torch.stack([self.encoder.transform(scan.voxels, scan.spacing_mm) for scan in group])
            yield group, self._inputs(views.to(place))

    @torch.inference_mode()
    def _inputs(self, views: torch.Tensor) -> NDArray[np.floating[Any]]:
        """The inputs of the heads from views (B, C, D, H, W), with the same rounding as in fitting."""
        if METHODS[self.record.method].reads == "volumes":
            views = views.half().float()
        (tokens,) = self.encoder.tokens(views, [self.record.layer])
        tokens = tokens.float()
        prefix = self.encoder.prefix
        if not self.record.pools:
            return tokens[:, prefix:].half().cpu().numpy()
        return pooled(tokens, prefix, self.record.pools).cpu().numpy()

    def _answers(self, predicted: Callable[[Head, Kind], FloatArray]) -> list[dict[str, Answer]]:
        """Answers by label column for each scan or study; predicted: returns a head's predictions for all."""
        of_tasks = [
            self._answers_of(task, predicted(head, task.of_kind()))
            for task, head in zip(self.record.tasks, self.heads, strict=True)
        ]
        tasks = [task.task for task in self.record.tasks]
        return [dict(zip(tasks, own, strict=True)) for own in zip(*of_tasks, strict=True)]

    @staticmethod
    def _answers_of(task: TaskRecord, predictions: FloatArray) -> list[Answer]:
        kind = task.of_kind()
        columns = kind.columns(predictions)
        scores = np.array([one.score for one in columns], np.float64)
        probabilities = task.calibration(scores).tolist() if task.calibration else [None] * len(scores)
        threshold = task.thresholds.balanced
        return [
            Answer(
                one.score,
                probability,
                None if threshold is None else one.score >= threshold,
                kind.name,
                one.value,
                one.probabilities,
            )
            for one, probability in zip(columns, probabilities, strict=True)
        ]


def _predicted(inputs: NDArray[np.floating[Any]], head: Head, kind: Kind) -> FloatArray:
    return head.predicted(inputs, kind)


def load_classifier(folder: Path | str) -> Classifier:
    """Load a classifier of `fmct export-classifier`; raises FmctError as `read_classifier` does."""
    record, encoder, heads = read_classifier(Path(folder))
    return Classifier(record, encoder, tuple(heads))
