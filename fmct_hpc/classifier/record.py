"""classifier.json: what a kept classifier is and was made of."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from fmct_hpc.classifier.calibration import Calibration
from fmct_hpc.probe.config import Sample
from fmct_hpc.probe.kinds import BINARY, Kind, kind_class
from fmct_hpc.probe.methods.finetune import FinetunePool
from fmct_hpc.probe.methods.registry import MethodName
from fmct_hpc.probe.series import SeriesPool
from fmct_hpc.train.checkpoint import FileFacts
from shards.label_kinds import KindSpec
from shards.names import Sha256
from shards.schema import Role
from shards.section import Section

FILE_NAME = "classifier.json"
HEADS = "heads.safetensors"
ENCODER = "encoder.safetensors"
ENCODER_INFO = "encoder.json"
FORMAT_VERSION = 1
Count = Annotated[int, Field(ge=0)]


class Thresholds(Section):
    """Of the score, chosen on validation volumes; at or above it a volume is called positive.

    None where those lack a class.
    """

    balanced: float | None
    """Of greatest balanced accuracy (Youden 1950)."""
    at_specificity: float | None
    """The lowest whose specificity is at least the sweep's `min_specificity`."""
    at_sensitivity: float | None
    """The highest whose sensitivity is at least the sweep's `min_sensitivity`."""


class KindRecord(Section):
    """What kind a label is that is not binary."""

    kind: KindSpec
    classes: tuple[int, ...]
    """Numbers of the classes in the order of the probabilities; none where there are none."""


class TaskRecord(Section):
    """One label, and the head that predicts it."""

    task: str
    """The label's column."""
    chosen: dict[str, float]
    """What was chosen on validation: strength, rate, step, number of neighbours."""
    calibration: Calibration | None
    """None where the validation volumes lack a class, and of labels that are not binary."""
    thresholds: Thresholds
    train: Count
    train_positives: Count
    validation: Count
    validation_positives: Count
    """Volumes; positives are of a time to event the events, and of other kinds 0."""
    kind: KindRecord | None = None
    """None of binary labels, and then not written: earlier versions knew no others."""

    def of_kind(self) -> Kind:
        """What predicts by it."""
        if self.kind is None:
            return BINARY
        return kind_class(self.kind.kind).over(np.array(self.kind.classes, np.float64))


class StudyRecord(Section):
    """What a classifier of studies takes for one, and how it reads it."""

    sample: Sample
    """`best` or `study`."""
    series_pool: SeriesPool | None
    """Over the features of a study's series; None where the head attends to them, and of `best`."""
    roles: tuple[Role, ...]
    """That series had in the studies that it was fitted on."""
    preprocessing: dict[str, Any] | None
    """The configuration that made these volumes, by which new exams are selected; None where not known."""
    preprocess_digest: str
    """Of that configuration."""


class ClassifierRecord(Section):
    """All of a classifier but its arrays."""

    format_version: Literal[1] = 1
    encoder: str
    """Its name in the sweep."""
    encoder_digest: Sha256
    """Of weights and input, as feature stores have it (`OurEncoder.digest`)."""
    method: MethodName
    layer: int
    """From 0."""
    pools: tuple[FinetunePool, ...]
    """What a head reads side by side; none where it reads the patch tokens."""
    seed: int
    fraction: float | None
    shots: int | None
    """The label budget; one of fraction and shots is None."""
    least_specificity: float
    least_sensitivity: float
    data_digest: str
    """Of the voxels of the dataset that it was fitted on, whatever the shard format."""
    labels_digest: str
    """SHA-256 of the label table's file."""
    cohort_digest: str
    """Of dataset, labels and split."""
    code_version: str
    tasks: Annotated[tuple[TaskRecord, ...], Field(min_length=1)]
    heads: FileFacts
    weights: FileFacts
    of_studies: StudyRecord | None = None
    """None of a classifier of volumes, and then not written."""

    def text(self, indent: int | None = None) -> str:
        """As JSON, binary labels without a kind and classifiers of volumes without `of_studies`."""
        left_out: dict[str, Any] = {
            "tasks": {number: {"kind"} for number, task in enumerate(self.tasks) if task.kind is None}
        }
        if self.of_studies is None:
            left_out["of_studies"] = True
        return self.model_dump_json(indent=indent, exclude=left_out)
