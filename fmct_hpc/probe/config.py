"""The configuration of probes and sweeps: typed, closed, and with a reason for each default."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fmct_hpc.fields import Above0, Device, Positive, Seed
from fmct_hpc.probe.encoders import EncoderSpec
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
"""One to test on, one to choose by, and the rest to learn from."""

Pool = Literal["cls", "mean", "both"]
Sample = Literal["volume", "best", "study"]
"""A volume; the best volume of a study, which `select.keep=best` would have made; all volumes of a study."""


PROBE_FOLDS = 5
"""Four fifths of the patients teach and choose, and every volume is tested on."""


class ProbeConfig(LogisticKeys, NeighboursKeys):
    """All of `fmct probe`."""

    data: Path
    """A shard dataset; volumes join the labels on study_key."""
    labels: Path
    """Parquet from `fmct labels`: study_key and one column a task, null where unknown."""
    kinds: Kinds = Field(default={})
    """What kinds of label the columns are: `multiclass`, `ordinal`, `regression`, or of a column of events
    `{survival: column of times}`; binary where nothing is said."""
    batch: Positive = 8
    parts: Path | None = None
    """Parquet of `fmct shards split`: the patients of `train` teach, of `validation` choose, of `test` and
    `ood` or `ood:NAME` are tested on."""
    folds: Folds | None = None
    """Patient-level cross-validation: every volume is tested once, by a probe that never saw its patient.
    None: the parts, or the labels' column `split`; `PROBE_FOLDS` folds where there is neither."""
    device: Device = "cpu"
    """For the features, cpu, gpu or gpu:1; the classifiers run on the CPU."""
    sample: Sample = "volume"
    """What one sample is, as in a sweep's `samples`."""
    series_pool: SeriesPool = "mean"
    """As in a sweep."""
    bootstrap: Positive = 2000
    """Resamples of patients for the intervals."""
    confidence: Open = 0.95
    allow_pretraining_patients: bool = True
    """Test on patients that the encoder has seen in pretraining (without labels), or may have, and have it
    reported: the data that a first look at a run is taken on is mostly its own. False refuses, as a sweep
    does."""
    allow_unknown_pretraining: bool = False
    """With the other false: test, and have it reported, where nobody can know whether it has seen them."""
    seed: Seed = 0
    privacy: Sharing = Sharing()


class ComparisonConfig(MethodKeys):
    """What encoders are compared by: methods, label budgets and seeds, whatever the volumes."""

    encoders: Annotated[tuple[EncoderSpec, ...], Field(min_length=1)]
    methods: Annotated[tuple[MethodName, ...], Field(min_length=1)] = ("logistic", "neighbours")
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Of the encoders, from 0, or from the end by -1 and so on; fine-tuning has none."""
    pools: Annotated[tuple[Pool, ...], Field(min_length=1)] = ("both",)
    """CLS token, mean of the patch tokens, or both side by side; attentive pooling reads the tokens."""
    samples: Annotated[tuple[Sample, ...], Field(min_length=1)] = ("volume",)
    """What one sample is: `volume`; `study`, all volumes of a study; or `best`, a study's best volume alone,
    with which `study` is compared."""
    series_pool: SeriesPool = "mean"
    """Of studies, what methods on features see of their series' features: the mean, which a classifier of
    volumes' features reads without a change, or the maximum in each channel."""
    fractions: tuple[Share, ...] = (1.0,)
    """Shares of the labelled patients of each class, in training and validation; the smaller lie within
    the greater."""
    shots: tuple[Positive, ...] = ()
    """Training patients of each class; validation is thinned by the same share."""
    repeats: Positive = 5
    """Draws of each number of shots; their seeds are 0, 1 and so on."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    """For the patients of a fraction below 1, and for what training draws; where a method draws nothing
    and the fraction is 1, the first alone is run."""
    bootstrap: Positive = 2000
    """Resamples of patients for the intervals."""
    confidence: Open = 0.95
    min_specificity: Open = 0.9
    """What the threshold of `sensitivity_at` is chosen for, on validation."""
    min_sensitivity: Open = 0.9
    """What the threshold of `specificity_at` is chosen for, on validation."""
    allow_pretraining_patients: bool = False
    """Test on patients that an encoder has seen in pretraining, or may have, and have it reported."""
    allow_unknown_pretraining: bool = False
    """Test, and have it reported, where nobody can know whether an encoder has seen them: weights of others,
    or a run's whose volumes are not at hand. Better is to say what they have seen, by the encoder's
    `pretraining`."""
    device: Device = "cpu"
    """For features and fine-tuning, cpu, gpu or gpu:1; the other methods run on the CPU."""
    batch: Positive = 8
    """Volumes that an encoder sees at once."""
    task_minutes: Above0 = 10.0
    """About what one task of a job array takes, by estimate."""
    feature_tasks: Positive = 1
    """Array tasks that share the extraction of one encoder's features."""
    privacy: Sharing = Sharing()

    @model_validator(mode="after")
    def _one_of_each(self) -> "ComparisonConfig":
        for key in ("methods", "layers", "pools", "samples", "fractions", "shots", "seeds"):
            values = getattr(self, key)
            if values and len(set(values)) < len(values):
                raise ValueError(f"{key} names one twice")
        names = [spec.name for spec in self.encoders]
        if len(set(names)) < len(names):
            raise ValueError("two encoders have the same name; results are told apart by it")
        if not self.fractions and not self.shots:
            raise ValueError("fractions and shots are both empty: no labels to learn from")
        return self


class CohortConfig(Section):
    """Which volumes and labels, and who of the patients teaches and is tested."""

    data: Path
    """A shard dataset; volumes join the labels on study_key."""
    labels: Path
    """Parquet from `fmct labels`: study_key, one column a task, and `split` where splits are given."""
    kinds: Kinds = Field(default={})
    """What kinds of label the columns are: `multiclass`, `ordinal`, `regression`, or of a column of events
    `{survival: column of times}`; binary where nothing is said."""
    parts: Path | None = None
    """Parquet of `fmct shards split`: the patients of `train` teach, of `validation` choose, of `test` and
    `ood` or `ood:NAME` are tested on; `split` has no say then, and `folds` is refused."""
    tasks: tuple[str, ...] | None = None
    """Label columns; None: all."""
    split: SplitConfig = SplitConfig()
    folds: Folds | None = None
    """Patient-level cross-validation in place of one split, for small cohorts."""

    @model_validator(mode="after")
    def _each_task_once(self) -> "CohortConfig":
        if self.tasks and len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks names one twice")
        return self


class SweepConfig(ComparisonConfig, CohortConfig):
    """All of `fmct sweep`: encoders × tasks × methods × label budgets × seeds."""

    features: Path
    """Folder of feature stores, one for each encoder by its name; what is missing there is extracted."""
