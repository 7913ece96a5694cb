"""The configuration of a run: optimizer, length, checkpoints, health checks."""

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
    """Start and end of a cosine; 0 for biases, norms, tokens, positions and prototypes."""
    betas: tuple[Below1, Below1] = (0.9, 0.95)
    clip: Above0 = 3.0
    """Maximum gradient norm (Caron et al. 2021)."""


class RunConfig(Section):
    """Length, records and checkpoints of a run."""

    steps: Positive = 100_000
    """Length of the whole run; all schedules depend on it."""
    epochs: Above0 | None = None
    """Instead of steps: how often each volume is seen. `fmct train` computes the steps from the number of
    volumes (fmct_hpc.train.length)."""
    seed: Seed = 0
    start_from: Path | None = None
    """Initial weights: another run (its folder or one of its checkpoints), with its complete state, or an
    encoder.safetensors; required until the first checkpoint. None: random weights from the seed."""
    batch: Positive = 256
    """Volumes per step over all ranks; a rank's share is derived, so a resume may change the ranks."""
    checkpoint_every: Positive = 1000
    """Saving ViT-B then costs well under 2 % of the time (docs/benchmarks.md)."""
    failure_gpu_hours: Above0 = 50_000.0
    """Mean GPU hours between failures, for `--dry-run`'s best interval: 419 in 54 days of 16,384 GPUs
    (Grattafiori et al. 2024, The Llama 3 Herd of Models, section 3.3.4)."""
    keep_last: Positive = 3
    """One to resume from, and two in case it is damaged."""
    keep_every: Positive | None = None
    """Keep the checkpoint of every N-th step permanently; None: only the last ones and the best probed."""
    minutes: Above0 | None = None
    """Save and stop when a process has run this long; in a scheduler's job its time limit applies too."""
    log_every: Positive = 10
    images_every: Positive = 1000
    """Steps between reconstructions, attention maps and embeddings."""
    hang_minutes: Above0 = 30.0
    """A longer step or start counts as a hang: slow storage and first compilations take some minutes."""

    @model_validator(mode="before")
    @classmethod
    def _null_steps_are_none(cls, values: Any) -> Any:
        """run.steps=null unsets a recipe's steps, so that run.epochs applies."""
        if isinstance(values, dict) and values.get("steps", 0) is None:
            return {key: value for key, value in values.items() if key != "steps"}
        return values

    @field_serializer("steps")
    def _steps_as_given(self, steps: int) -> int | None:
        """Null while they follow from the epochs and have not been computed."""
        return steps if self.epochs is None or "steps" in self.model_fields_set else None


class HealthConfig(Section):
    """Health checks: whether a run is sound, and whether it learns."""

    earlier = {"every": 0}  # noqa: RUF012

    every: Annotated[int, Field(ge=0)] = 100
    """Steps between evaluations of the features (docs/training.md), at least four within the patience; 0:
    none. An evaluation costs the encoding of the global views, about a seventh of a step."""
    labels: Path | None = None
    """A table of `fmct labels` for the online probe of the averaged encoder, with held-out patients, at every
    evaluation and every regular checkpoint. None: no probe."""
    label: tuple[str, ...] | None = None
    """Columns of the table to probe; None: all with enough positive and negative patients."""
    data: Path | None = None
    """The shard dataset of the labelled volumes, best of patients that pretraining does not see; None: the
    run's own."""
    max_volumes: Annotated[int, Field(ge=50)] = 256
    """Maximum number of probed volumes. The ranks together keep their views in memory: 2.7 GB for 96³ in
    three windows."""
    not_finite: Literal["stop", "skip"] = "stop"
    """Action for a non-finite loss or gradient; a skipped step updates nothing and is recorded."""
    max_skipped: Positive = 10
    """Maximum skipped steps per attempt: bf16 overflows occasionally, more indicates a broken run."""
    collapse: Literal["warn", "stop"] = "warn"
    """Action for signs of collapse that persist; a run may recover from them."""
    patience: Positive = 2000
    """Steps that a sign must persist, or a quarter of a shorter run: early in a run features are similar and
    targets nearly uniform."""
    entropy_margin: Annotated[float, Field(gt=0, lt=1)] = 0.005
    """The teacher's mean entropy counts as uniform above (1 - entropy_margin) · log(model.prototypes)."""
    min_divergence: AtLeast0 = 0.01
    """Minimum of cross-entropy minus the teacher's entropy, in nats (Caron et al. 2021, section 5.3)."""
    min_feature_deviation: AtLeast0 = 0.05
    """Minimum deviation of normalised CLS tokens times √width: about 1 in sound runs (Chen and He 2021,
    section 4.1)."""

    min_rise: Fraction = 0.05
    """Minimum rise of retrieval, as a share of the distance from its first evaluations to 1. Untrained
    weights retrieve several times more than chance; sound runs on 96 of the study's heads rose by 0.2."""
    max_crop_likeness: Fraction = 0.3
    """Correlation of nearness in features and of crops above which a run that recognises no volume encodes
    crops: 0.1 to 0.3 for untrained weights, 0.05 for sound runs, 0.46 where all volumes are one head."""
    min_rank: AtLeast0 = 2.5
    """Minimum RankMe of tokens, about 1 for one direction. Collapsed runs had 1.7 to 1.9, sound ones over
    4."""
    max_patch_drift: Fraction = 0.2
    """Maximum rise of the mean cosine of a view's patch tokens above its minimum so far; in sound runs it
    first rose by 0.1, then fell again."""

    max_tissue_dropped: Fraction = 0.05
    """Maximum share of the views' tissue in patches that model.keep_tokens drops: 0.04 with keep_tokens=0.6
    in the default crops of the study's heads (docs/training.md)."""

    @model_validator(mode="after")
    def _probe_is_whole(self) -> "HealthConfig":
        if self.labels is None and (self.label or self.data):
            raise ValueError("health.label and health.data require health.labels, which is not set")
        if self.labels is not None and not self.every:
            raise ValueError("health.labels needs health.every above 0: the probe runs at these evaluations")
        return self

    def interval(self, steps: int) -> int:
        """Steps between evaluations of the features in a run of `steps`; 0: none."""
        return min(self.every, max(1, self.lasting(steps) // 4))

    def lasting(self, steps: int) -> int:
        """Steps that a sign must persist in a run of `steps`."""
        return min(self.patience, max(1, steps // 4))
