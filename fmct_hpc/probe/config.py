"""Configuration of probes and sweeps."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fmct_hpc.fields import Above0, Device, Positive, Seed
from fmct_hpc.probe.encoder_spec import EncoderSpec
from fmct_hpc.probe.methods.logistic import LogisticKeys
from fmct_hpc.probe.methods.neighbours import NeighboursKeys
from fmct_hpc.probe.methods.registry import MethodKeys, MethodName
from fmct_hpc.probe.series import SeriesPool
from fmct_hpc.probe.splits import SplitConfig
from shards.label_kinds import Kinds
from shards.section import Section
from shards.sharing_section import Sharing

Share = Annotated[float, Field(gt=0, le=1)]
Open = Annotated[float, Field(gt=0, lt=1)]
Folds = Annotated[int, Field(ge=3)]
"""At least 3: one fold each for test and validation, the rest for training."""

Pool = Literal["cls", "mean", "both"]
Sample = Literal["volume", "best", "study"]
"""One volume; the best volume of a study, as selected by `select.keep=best`; all volumes of a study."""


PROBE_FOLDS = 5
"""Four fifths of the patients are for training and validation, and every volume is tested once."""


class ProbeConfig(LogisticKeys, NeighboursKeys):
    """All of `fmct probe`."""

    data: Path
    """A shard dataset; volumes join the labels on study_key."""
    labels: Path
    """Parquet from `fmct labels`: study_key and one column per task, null where unknown."""
    kinds: Kinds = Field(default={})
    """Kinds of the label columns: `multiclass`, `ordinal`, `regression`, or, for a column of events,
    `{survival: column of times}`; binary by default."""
    batch: Positive = 8
    parts: Path | None = None
    """Parquet of `fmct shards split`: `train` and `validation` are for training and validation, `test`,
    `ood` and `ood:NAME` are test sets."""
    folds: Folds | None = None
    """Patient-level cross-validation: every volume is tested once, by a probe not trained on its patient.
    None: the parts, or the labels' column `split`; without either, `PROBE_FOLDS` folds."""
    device: Device = "cpu"
    """Device for feature extraction: cpu, gpu or gpu:1; the classifiers run on the CPU."""
    sample: Sample = "volume"
    """Unit of a sample, as in a sweep's `samples`."""
    series_pool: SeriesPool = "mean"
    """As in a sweep."""
    bootstrap: Positive = 2000
    """Resamples of patients for the intervals."""
    confidence: Open = 0.95
    allow_pretraining_patients: bool = True
    """Accept test patients that are, or may be, in the pretraining data (without labels), and report them:
    runs are often probed on their own training data. False rejects them, as a sweep does."""
    allow_unknown_pretraining: bool = False
    """If the key above is false: accept, and report, an encoder whose pretraining patients are unknown."""
    seed: Seed = 0
    privacy: Sharing = Sharing()


class ComparisonConfig(MethodKeys):
    """Settings of a comparison of encoders, apart from the data: methods, label budgets, seeds."""

    encoders: Annotated[tuple[EncoderSpec, ...], Field(min_length=1)]
    methods: Annotated[tuple[MethodName, ...], Field(min_length=1)] = ("logistic", "neighbours")
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Layers of the encoders, from 0, or from the end with -1 and so on; fine-tuning ignores them."""
    pools: Annotated[tuple[Pool, ...], Field(min_length=1)] = ("both",)
    """CLS token, mean of the patch tokens, or both side by side; attentive pooling reads the tokens."""
    samples: Annotated[tuple[Sample, ...], Field(min_length=1)] = ("volume",)
    """Unit of a sample: `volume`; `study`, all volumes of a study; or `best`, only the best volume of a
    study, the baseline for `study`."""
    series_pool: SeriesPool = "mean"
    """For studies, how features are pooled over series: the mean, which a classifier of volumes can read
    unchanged, or the maximum of each channel."""
    fractions: tuple[Share, ...] = (1.0,)
    """Shares of the labelled patients of each class, in training and validation; smaller shares are subsets
    of larger ones."""
    shots: tuple[Positive, ...] = ()
    """Training patients per class; validation is reduced by the same share."""
    repeats: Positive = 5
    """Draws per number of shots, with the seeds 0, 1 and so on."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    """For the choice of patients of a fraction below 1, and for training. Only the first is used if the
    method is deterministic and the fraction is 1."""
    bootstrap: Positive = 2000
    """Resamples of patients for the intervals."""
    confidence: Open = 0.95
    min_specificity: Open = 0.9
    """Specificity on validation for which the threshold of `sensitivity_at` is chosen."""
    min_sensitivity: Open = 0.9
    """Sensitivity on validation for which the threshold of `specificity_at` is chosen."""
    allow_pretraining_patients: bool = False
    """Accept test patients that are, or may be, in an encoder's pretraining data, and report them."""
    allow_unknown_pretraining: bool = False
    """Accept, and report, an encoder whose pretraining patients are unknown: external weights, or a run
    whose volumes are not available. If the data is available, set the encoder's `pretraining` instead."""
    device: Device = "cpu"
    """Device for features and fine-tuning: cpu, gpu or gpu:1; the other methods run on the CPU."""
    batch: Positive = 8
    """Volumes per forward pass of an encoder."""
    task_minutes: Above0 = 10.0
    """Approximate duration of one task of a job array, estimated."""
    feature_tasks: Positive = 1
    """Array tasks for the extraction of one encoder's features."""
    privacy: Sharing = Sharing()

    @model_validator(mode="after")
    def _one_of_each(self) -> "ComparisonConfig":
        for key in ("methods", "layers", "pools", "samples", "fractions", "shots", "seeds"):
            values = getattr(self, key)
            if values and len(set(values)) < len(values):
                raise ValueError(f"{key} has a duplicate value")
        names = [spec.name for spec in self.encoders]
        if len(set(names)) < len(names):
            raise ValueError("two encoders have the same name, which must identify results")
        if not self.fractions and not self.shots:
            raise ValueError("fractions and shots are both empty: no labels for training")
        return self


class CohortConfig(Section):
    """Volumes, labels, and the split of the patients."""

    data: Path
    """A shard dataset; volumes join the labels on study_key."""
    labels: Path
    """Parquet from `fmct labels`: study_key, one column per task, and optionally `split`."""
    kinds: Kinds = Field(default={})
    """Kinds of the label columns: `multiclass`, `ordinal`, `regression`, or, for a column of events,
    `{survival: column of times}`; binary by default."""
    parts: Path | None = None
    """Parquet of `fmct shards split`: `train` and `validation` are for training and validation, `test`,
    `ood` and `ood:NAME` are test sets. `split` is ignored then, and `folds` is rejected."""
    tasks: tuple[str, ...] | None = None
    """Label columns; None: all."""
    split: SplitConfig = SplitConfig()
    folds: Folds | None = None
    """Patient-level cross-validation instead of a single split, for small cohorts."""

    @model_validator(mode="after")
    def _each_task_once(self) -> "CohortConfig":
        if self.tasks and len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks has a duplicate value")
        return self


class SweepConfig(ComparisonConfig, CohortConfig):
    """All of `fmct sweep`: encoders × tasks × methods × label budgets × seeds."""

    features: Path
    """Folder of feature stores, one per encoder, by name; missing features are extracted."""
