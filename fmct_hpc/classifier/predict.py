"""What a kept classifier says of new scans."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fmct_hpc.classifier import studies
from fmct_hpc.classifier.kept import read_classifier
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
    """Of one task."""

    score: float
    """The classifier's own, as the sweep reports it."""
    probability: float | None
    """The score recalibrated on validation volumes; None where those lacked a class."""
    positive: bool | None
    """Whether the score reaches the threshold of greatest balanced accuracy; None where there is none."""
    kind: str = "binary"
    value: float | None = None
    """Of other kinds than binary: the class or the value; None of a time to event: the score is a risk."""
    probabilities: tuple[float, ...] | None = None
    """Of the classes, in the order of the record's."""


@dataclass(frozen=True)
class Prediction:
    """Of one scan, or of one study."""

    key: str
    """A shard dataset's volume's; of other scans the head of their source's digest. A study's is that of its
    best scan."""
    answers: dict[str, Answer]
    """By the label's column; none where there is a reason."""
    study_key: str | None = None
    """HMAC of the study, as labels have it: a shard dataset's, or by `key_file`; None where neither is."""
    patient_key: str | None = None
    flags: tuple[str, ...] | None = None
    """What the checks of preprocessing found; None of a shard dataset's volume, whose manifest has them."""
    roles: tuple[str, ...] | None = None
    """Of the series of a study that were used; None of a scan."""
    missing_roles: tuple[str, ...] | None = None
    """That studies had in training, and this one lacks."""
    reason: str | None = None
    """Why a study has no answers."""


@dataclass(frozen=True)
class Classifier:
    """An encoder with the heads that were fitted on it; `load_classifier` opens one."""

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
        """Predictions for the head CTs at `source`, preprocessed as the encoder's training volumes were.

        source, affine and key_file as in `fmct_hpc.features`; batch: scans that pass the encoder at once.
        Raises FmctError, with the reason, for a source that holds no head CT that the encoder takes; of
        several sources or files after all others.
        """
        key = Path(key_file) if key_file else None
        of_studies = self.record.of_studies is not None
        return self.of_scans(read_source(source, self.reads, affine, key, of_studies), batch, device)

    @property
    def reads(self) -> EncoderInfo:
        """What new exams are read by: the encoder's own, or what made the studies that it learnt from."""
        info, studied = self.encoder.info, self.record.of_studies
        if studied is None or studied.preprocessing is None:
            return info
        record = {"preprocessing": studied.preprocessing, "preprocess_digest": studied.preprocess_digest}
        return info.model_copy(update=record)

    def of_scans(self, scans: Iterable[Scan], batch: int = 4, device: str = "cpu") -> Iterator[Prediction]:
        """Predictions for scans as `fmct_hpc.inference.readers` gives them, for studies read by study."""
        if self.record.of_studies is not None:
            yield from self._of_studies(scans, self.record.of_studies, batch, device)
            return
        for group, inputs in self._encoded(scans, batch, device):
            for scan, answers in zip(group, self._answers(partial(_said_of, inputs)), strict=True):
                yield Prediction(scan.key, answers, scan.study_key, scan.patient_key, scan.flags)

    def _of_studies(
        self, scans: Iterable[Scan], record: StudyRecord, batch: int, device: str
    ) -> Iterator[Prediction]:
        """A prediction a study."""
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
        """Groups of scans, and what the heads read of them."""
        place = usable_device(device)
        self.encoder.module.to(place).eval()
        for group in in_groups(scans, batch):
            views = torch.stack([self.encoder.transform(scan.voxels, scan.spacing_mm) for scan in group])
            yield group, self._inputs(views.to(place))

    @torch.inference_mode()
    def _inputs(self, views: torch.Tensor) -> NDArray[np.floating[Any]]:
        """What the heads read of views (B, C, D, H, W), rounded as in fitting."""
        if METHODS[self.record.method].reads == "volumes":
            views = views.half().float()
        (tokens,) = self.encoder.tokens(views, [self.record.layer])
        tokens = tokens.float()
        prefix = self.encoder.prefix
        if not self.record.pools:
            return tokens[:, prefix:].half().cpu().numpy()
        return pooled(tokens, prefix, self.record.pools).cpu().numpy()

    def _answers(self, predicted: Callable[[Head, Kind], FloatArray]) -> list[dict[str, Answer]]:
        """By the label's column, of each scan or study; predicted: what a head says of them all."""
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


def _said_of(inputs: NDArray[np.floating[Any]], head: Head, kind: Kind) -> FloatArray:
    return head.predicted(inputs, kind)


def load_classifier(folder: Path | str) -> Classifier:
    """The classifier that `fmct export-classifier` wrote; raises FmctError as `read_classifier` does."""
    record, encoder, heads = read_classifier(Path(folder))
    return Classifier(record, encoder, tuple(heads))
