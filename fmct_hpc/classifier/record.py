"""classifier.json: description and provenance of an exported classifier."""

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
FORMAT_VERSION = 1
Count = Annotated[int, Field(ge=0)]


class Thresholds(Section):
    """Thresholds chosen on validation volumes; a volume with a score at or above is positive.

    None if the validation volumes lack a class.
    """

    balanced: float | None
    """Threshold of maximum balanced accuracy (Youden 1950)."""
    at_specificity: float | None
    """The lowest threshold with a specificity of at least the sweep's `min_specificity`."""
    at_sensitivity: float | None
    """The highest threshold with a sensitivity of at least the sweep's `min_sensitivity`."""


class KindRecord(Section):
    """The kind of a label that is not binary."""

    kind: KindSpec
    classes: tuple[int, ...]
    """Numbers of the classes in the order of the probabilities; empty for kinds without classes."""


class TaskRecord(Section):
    """One label and its head."""

    task: str
    """The label's column."""
    chosen: dict[str, float]
    """Hyperparameters chosen on validation: strength, rate, step, number of neighbours."""
    calibration: Calibration | None
    """None if the validation volumes lack a class, and for labels that are not binary."""
    thresholds: Thresholds
    train: Count
    train_positives: Count
    validation: Count
    validation_positives: Count
    """Numbers of volumes; positives are the events of a time to event, and 0 for other kinds."""
    kind: KindRecord | None = None
    """None for binary labels and then not written, as in earlier versions."""

    def of_kind(self) -> Kind:
        """The kind of label."""
        if self.kind is None:
            return BINARY
        return kind_class(self.kind.kind).over(np.array(self.kind.classes, np.float64))


class StudyRecord(Section):
    """How a classifier of studies reads a study."""

    sample: Sample
    """`best` or `study`."""
    series_pool: SeriesPool | None
    """Pooling of features over a study's series; None if the head attends to them, and for `best`."""
    roles: tuple[Role, ...]
    """Roles of the series in the training studies."""
    preprocessing: dict[str, Any] | None
    """The preprocessing configuration of the training volumes, used for new exams; None if unknown."""
    preprocess_digest: str
    """Digest of that configuration."""


class ClassifierRecord(Section):
    """Everything about a classifier except its arrays."""

    format_version: Literal[1] = 1
    encoder: str
    """Name in the sweep."""
    encoder_digest: Sha256
    """Digest of weights and input, as in feature stores (`OurEncoder.digest`)."""
    method: MethodName
    layer: int
    """From 0."""
    pools: tuple[FinetunePool, ...]
    """Poolings concatenated as input of a head; empty if it reads patch tokens."""
    seed: int
    fraction: float | None
    shots: int | None
    """The label budget; exactly one of fraction and shots is None."""
    least_specificity: float
    least_sensitivity: float
    """The sweep's `min_specificity` and `min_sensitivity`, under their names in the file format."""
    data_digest: str
    """Digest of the training dataset's voxels, independent of the shard format."""
    labels_digest: str
    """SHA-256 of the label table."""
    cohort_digest: str
    """Digest of dataset, labels and split."""
    code_version: str
    tasks: Annotated[tuple[TaskRecord, ...], Field(min_length=1)]
    heads: FileFacts
    weights: FileFacts
    of_studies: StudyRecord | None = None
    """None for a classifier of volumes, and then not written."""

    def text(self, indent: int | None = None) -> str:
        """As JSON, binary labels without a kind and classifiers of volumes without `of_studies`."""
        left_out: dict[str, Any] = {
            "tasks": {number: {"kind"} for number, task in enumerate(self.tasks) if task.kind is None}
        }
        if self.of_studies is None:
            left_out["of_studies"] = True
        return self.model_dump_json(indent=indent, exclude=left_out)
