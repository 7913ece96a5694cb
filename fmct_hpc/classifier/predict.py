"""What a kept classifier says of new scans."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fmct_hpc.classifier.kept import read_classifier
from fmct_hpc.classifier.record import ClassifierRecord
from fmct_hpc.inference.readers import Scan, Source, in_groups, read_source
from fmct_hpc.model.execution import usable_device
from fmct_hpc.probe.encoders import OurEncoder
from fmct_hpc.probe.heads import Head, pooled
from fmct_hpc.probe.methods import ON_VOLUMES


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
    """Of one scan."""

    key: str
    """A shard dataset's volume's; of other scans the head of their source's digest."""
    answers: dict[str, Answer]
    """By the label's column."""
    study_key: str | None = None
    """HMAC of the study, as labels have it: a shard dataset's, or by `key_file`; None where neither is."""
    patient_key: str | None = None
    flags: tuple[str, ...] | None = None
    """What the checks of preprocessing found; None of a shard dataset's volume, whose manifest has them."""


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
        scans = read_source(source, self.encoder.info, affine, Path(key_file) if key_file else None)
        return self.of_scans(scans, batch, device)

    def of_scans(self, scans: Iterable[Scan], batch: int = 4, device: str = "cpu") -> Iterator[Prediction]:
        """Predictions for scans as `fmct_hpc.inference.readers` gives them."""
        place = usable_device(device)
        self.encoder.module.to(place).eval()
        for group in in_groups(scans, batch):
            views = torch.stack([self.encoder.transform(scan.voxels, scan.spacing_mm) for scan in group])
            inputs = self._inputs(views.to(place))
            answers = [self._answers(number, inputs) for number in range(len(self.heads))]
            tasks = [task.task for task in self.record.tasks]
            for scan, own in zip(group, zip(*answers, strict=True), strict=True):
                yield Prediction(
                    scan.key,
                    dict(zip(tasks, own, strict=True)),
                    scan.study_key,
                    scan.patient_key,
                    scan.flags,
                )

    @torch.inference_mode()
    def _inputs(self, views: torch.Tensor) -> NDArray[np.floating[Any]]:
        """What the heads read of views (B, C, D, H, W), rounded as in fitting."""
        if self.record.method in ON_VOLUMES:
            views = views.half().float()
        (tokens,) = self.encoder.tokens(views, [self.record.layer])
        tokens = tokens.float()
        prefix = self.encoder.prefix
        if not self.record.pools:
            return tokens[:, prefix:].half().cpu().numpy()
        return pooled(tokens, prefix, self.record.pools).cpu().numpy()

    def _answers(self, number: int, inputs: NDArray[np.floating[Any]]) -> list[Answer]:
        task = self.record.tasks[number]
        kind = task.of_kind()
        said = kind.said(self.heads[number].predicted(inputs, kind))
        scores = np.array([one.score for one in said], np.float64)
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
            for one, probability in zip(said, probabilities, strict=True)
        ]


def load_classifier(folder: Path | str) -> Classifier:
    """The classifier that `fmct export-classifier` wrote; raises FmctError as `read_classifier` does."""
    record, encoder, heads = read_classifier(Path(folder))
    return Classifier(record, encoder, tuple(heads))
