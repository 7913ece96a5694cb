"""How a run is optimised, kept and watched."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer, model_validator

from fmct_hpc.fields import Above0, AtLeast0, Below1, Fraction, Positive, Seed
from shards.section import Section


class OptimConfig(Section):
    """AdamW and its schedules, all functions of the step."""

    base_lr: Above0 = 5e-4
    """Peak learning rate at a global batch of 256; scaled linearly with the batch."""
    min_lr: AtLeast0 = 1e-6
    warmup: Fraction = 0.1
    """Share of all steps with a linearly rising learning rate."""
    weight_decay: tuple[AtLeast0, AtLeast0] = (0.04, 0.4)
    """Start and end of a cosine; none on biases, norms, tokens, positions and prototypes."""
    betas: tuple[Below1, Below1] = (0.9, 0.95)
    clip: Above0 = 3.0
    """Greatest gradient norm (Caron et al. 2021)."""


class RunConfig(Section):
    """Length, records and checkpoints of a run."""

    steps: Positive = 100_000
    """Of the whole run; all that is scheduled depends on it."""
    epochs: Above0 | None = None
    """In place of steps: how often each volume is seen. `fmct train` computes the steps from the number of
    volumes (fmct_hpc.train.length)."""
    seed: Seed = 0
    start_from: Path | None = None
    """What to begin with: another run (its folder or one of its checkpoints), whose whole state is taken, or
    an encoder.safetensors; needed until the first checkpoint. None: weights drawn from the seed."""
    batch: Positive = 256
    """Volumes a step over all ranks; what a rank gets is derived, so a resume may change ranks."""
    checkpoint_every: Positive = 1000
    """A save of ViT-B then costs well under 2 % of the time (docs/benchmarks.md)."""
    failure_gpu_hours: Above0 = 50_000.0
    """Mean GPU hours between failures, for `--dry-run`'s best interval: 419 in 54 days of 16,384 GPUs
    (Grattafiori et al. 2024, The Llama 3 Herd of Models, section 3.3.4)."""
    keep_last: Positive = 3
    """One to go on from, and two in case it is damaged."""
    keep_every: Positive | None = None
    """Checkpoints of every so-manieth step stay for good; None: only the last ones, and the best probed."""
    minutes: Above0 | None = None
    """Save and stop when a process has run this long; a scheduler's job knows its own end."""
    log_every: Positive = 10
    images_every: Positive = 1000
    """Steps between reconstructions, attention maps and embeddings."""
    hang_minutes: Above0 = 30.0
    """A step, or a start, that takes longer hangs: slow storage and first compilations take some minutes."""

    @model_validator(mode="before")
    @classmethod
    def _null_steps_are_none(cls, values: Any) -> Any:
        """run.steps=null takes back a recipe's, for run.epochs to hold."""
        if isinstance(values, dict) and values.get("steps", 0) is None:
            return {key: value for key, value in values.items() if key != "steps"}
        return values

    @field_serializer("steps")
    def _steps_as_given(self, steps: int) -> int | None:
        """Null as long as they follow from the epochs, and nobody has computed them."""
        return steps if self.epochs is None or "steps" in self.model_fields_set else None


class HealthConfig(Section):
    """When a run is not sound, and whether it learns."""

    earlier = {"every": 0}  # noqa: RUF012

    every: Annotated[int, Field(ge=0)] = 100
    """Steps between looks at the features (docs/training.md), and four times in the patience at least; 0:
    none. One costs the encoding of the global views, about a seventh of a step."""
    labels: Path | None = None
    """A table of `fmct labels`, for the online probe: features of volumes that have labels, by patients held
    out from the probe, at every look and every regular checkpoint. None: no probe."""
    label: tuple[str, ...] | None = None
    """Its columns to probe; None: all that have enough patients with and without."""
    data: Path | None = None
    """The shard dataset of those volumes, of patients that pretraining does not see at best; None: the
    run's own."""
    max_volumes: Annotated[int, Field(ge=50)] = 256
    """That are probed. All ranks together keep them as views in memory: 2.7 GB of 96³ in three windows."""
    not_finite: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is not finite does; a skipped step changes nothing and is recorded."""
    max_skipped: Positive = 10
    """Steps an attempt may skip: now and then bf16 overflows, more is a broken run."""
    collapse: Literal["warn", "stop"] = "warn"
    """What signs of collapse do, once they have lasted; a run may recover from them."""
    patience: Positive = 2000
    """Steps that a sign must last, or a quarter of the run's where these are fewer: early in a run features
    are nearly alike, and targets nearly uniform."""
    entropy_margin: Annotated[float, Field(gt=0, lt=1)] = 0.005
    """Share of log(model.prototypes) below it from which the teacher's mean entropy counts as uniform."""
    min_divergence: AtLeast0 = 0.01
    """Cross-entropy of student and teacher above the teacher's entropy, in nats (Caron et al. 2021, 5.3)."""
    min_feature_deviation: AtLeast0 = 0.05
    """Deviation of normalised CLS tokens times √width: about 1 when sound (Chen and He 2021, section 4.1)."""

    min_rise: Fraction = 0.05
    """Share of the way from retrieval at the first looks to 1 that it must have risen. New weights find
    several times what chance does, by likeness; sound runs on 96 of the study's heads rose by 0.2."""
    max_crop_likeness: Fraction = 0.3
    """Correlation of nearness in features and of crops, from which on a run that recognises no volume tells
    crops: 0.1 to 0.3 of new weights, 0.05 of sound runs, 0.46 where all volumes are one head."""
    min_rank: AtLeast0 = 2.5
    """RankMe of tokens; of one direction it is about 1. Collapsed runs had 1.7 to 1.9, sound ones over 4."""
    max_patch_drift: Fraction = 0.2
    """Rise of the mean cosine of a view's patch tokens above its least so far; in sound runs it rose by 0.1
    at first, and fell again."""

    max_tissue_dropped: Fraction = 0.05
    """Share of the views' tissue in patches that model.keep_tokens leaves out. With 0.6 it was 0.04 in the
    default crops of the study's heads (docs/training.md)."""

    @model_validator(mode="after")
    def _probe_is_whole(self) -> "HealthConfig":
        if self.labels is None and (self.label or self.data):
            raise ValueError("health.label and health.data are for health.labels, which is not given")
        if self.labels is not None and not self.every:
            raise ValueError("health.labels needs health.every above 0: the online probe is one of its looks")
        return self

    def interval(self, steps: int) -> int:
        """Steps between looks at the features in a run of `steps`; 0: none."""
        return min(self.every, max(1, self.lasting(steps) // 4))

    def lasting(self, steps: int) -> int:
        """Steps that a sign must last in a run of `steps`."""
        return min(self.patience, max(1, steps // 4))
