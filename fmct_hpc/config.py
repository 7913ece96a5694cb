"""The configuration of training and probing: typed, closed, and with a reason for each default."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer, model_validator

from fmct_hpc.engine_config import EngineConfig
from shards.errors import FmctError
from shards.section import Section
from shards.sharing import Sharing

Fraction = Annotated[float, Field(ge=0, le=1)]
Above0 = Annotated[float, Field(gt=0)]
AtLeast0 = Annotated[float, Field(ge=0)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Half of a Philox key; NumPy takes greater numbers beside smaller ones for floats."""


class DataConfig(Section):
    """Where the volumes are and how views are cut from them."""

    path: Path
    """A shard dataset: the directory that holds dataset.json."""
    windows: tuple[tuple[float, float], ...] = ((40, 80), (80, 200), (600, 2800))
    """(level, width) in HU, one channel each: brain, subdural, bone (the reference's)."""
    view_size: Positive = 96
    """Edge of a view in voxels after resizing (reference: 96)."""
    field: Literal["isotropic", "squeezed"] = "isotropic"
    """What crops are drawn from: a cube of the volume at its own spacing, or, as in the reference, its
    foreground resized to a cube without keeping the aspect (lengths then count that cube's voxels)."""
    field_mm: Above0 = 224.0
    """Edge of the padded, cropped or resized cube that crops are drawn from (reference: 224)."""
    global_crop_mm: tuple[float, float] = (112.0, 224.0)
    """Least and greatest edge of a global crop (reference: 112 to the whole field)."""
    local_crop_mm: tuple[float, float] = (64.0, 112.0)
    """Least and greatest edge of a local crop (reference: 64 to 112)."""
    local_field_mm: Above0 = 192.0
    """Local crops stay in this central cube (reference: 192)."""
    global_views: Literal[1, 2] = 2
    """DINO compares two (reference: 2); MAE alone learns from the first, and needs no other view."""
    local_views: Annotated[int, Field(ge=0)] = 2
    """Local views beside the global ones (reference: 2)."""
    flip_probability: Fraction = 0.2
    shift_probability: Fraction = 0.5
    shift: AtLeast0 = 0.2
    """Greatest intensity shift, in units of the windowed range [0, 1]."""
    smooth_probability: Fraction = 0.2
    smooth_sigma: tuple[float, float] = (0.5, 1.0)
    """Gaussian sigma in view voxels; the first global view only, as in the reference."""
    gamma_probability: Fraction = 0.2
    gamma: tuple[float, float] = (0.2, 1.0)
    """The second global view only, as in the reference."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Reader processes a rank; 0 reads in the training process."""
    prefetch: Positive = 2
    """Batches kept ready."""
    cache: Path | None = None
    """A directory on the node's own disk for copies of shards, made ahead of their use; None: none."""
    cache_gb: Above0 = 500.0
    """Most that the copies may take, in 10⁹ bytes (about what 256 shards of 2 GB do, the most in use)."""
    damaged: Literal["stop", "skip"] = "stop"
    """Where a volume fails its checks: end the run with its name, or count it and take another."""

    @property
    def views(self) -> int:
        """Global and local ones."""
        return self.global_views + self.local_views

    @model_validator(mode="after")
    def _crops_fit(self) -> "DataConfig":
        for crop, room in (("global_crop_mm", "field_mm"), ("local_crop_mm", "local_field_mm")):
            least, greatest = getattr(self, crop)
            if not 0 < least <= greatest <= getattr(self, room):
                raise ValueError(f"data.{crop} must rise from above 0 to at most data.{room}")
        if self.local_field_mm > self.field_mm:
            raise ValueError("data.local_field_mm must be at most data.field_mm")
        if any(width <= 0 for _, width in self.windows) or not self.windows:
            raise ValueError("data.windows needs at least one (level, width), widths above 0")
        if not 0 < self.smooth_sigma[0] <= self.smooth_sigma[1]:
            raise ValueError("data.smooth_sigma must rise from above 0")
        if not 0 < self.gamma[0] <= self.gamma[1]:
            raise ValueError("data.gamma must rise from above 0")
        return self


SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}
"""Width, depth and heads by name (S: Touvron et al. 2021, DeiT; B, L: Dosovitskiy et al. 2021, table 1)."""
_SHAPE = ("width", "depth", "heads")


class ModelConfig(Section):
    """The 3D vision transformer and its heads.

    Give `size`, or `width`, `depth` and `heads`: a size sets the three and refuses other values beside it.
    """

    patch_size: Positive = 12
    """Edge of a patch in voxels (reference: 12)."""
    size: Literal["S", "B", "L"] | None = "B"
    """B is the reference's; none where width, depth and heads are given."""
    width: Positive = 768
    depth: Positive = 12
    heads: Positive = 12
    mlp_ratio: Above0 = 4.0
    qkv_bias: bool = True
    """Of queries, keys and values; the reference's configuration has it, its published weights do not."""
    register_tokens: Annotated[int, Field(ge=0)] = 4
    """Darcet et al. 2024, "Vision Transformers Need Registers": 4."""
    positions: Literal["sincos", "learned"] = "sincos"
    """Fixed sines and cosines as in MAE, or learned ones that start as these (the reference's)."""
    layer_scale: Above0 | None = None
    """First value of a learned factor of each channel of each branch (Touvron et al. 2021, "Going deeper
    with Image Transformers": 1e-5 for deep models); none: not built, as in the reference."""
    drop_path: Below1 = 0.0
    """Chance that a sample skips a branch of the last block, rising linearly from 0 in the first (Huang et
    al. 2016, equation 4); DINO's ViTs have 0.1, the reference none."""
    prototypes: Positive = 65536
    """Outputs of the DINO head (Caron et al. 2021, section 4)."""
    head_hidden: Positive = 2048
    head_bottleneck: Positive = 256
    decoder_width: Positive = 512
    """He et al. 2022, table 1b: a narrow decoder is enough."""
    decoder_depth: Positive = 8
    decoder_heads: Positive = 16

    @model_validator(mode="before")
    @classmethod
    def _size_sets_shape(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = [key for key in _SHAPE if key in values]
        size = values.get("size", None if given else "B")
        if size is None:
            missing = [f"model.{key}" for key in _SHAPE if key not in values]
            if missing:
                raise ValueError(
                    f"{' and '.join(missing)} missing: give model.size, or width, depth and heads"
                )
            return {**values, "size": None}
        if size not in SIZES:
            return values  # the field says what it takes
        shape = dict(zip(_SHAPE, SIZES[size], strict=True))
        for key in given:
            if values[key] != shape[key]:
                raise ValueError(
                    f"model.{key}={values[key]}, but model.size={size} sets it to {shape[key]}: give "
                    "the size, or width, depth and heads with model.size=null"
                )
        return {**values, "size": size, **shape}

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelConfig":
        for width, heads in (("width", "heads"), ("decoder_width", "decoder_heads")):
            if getattr(self, width) % getattr(self, heads):
                raise ValueError(f"model.{width} must be a multiple of model.{heads}")
        return self


class ObjectiveConfig(Section):
    """L = Σ weight · L over DINO, MAE, iBOT and KoLeo; a weight of 0 builds nothing of that part."""

    dino_weight: AtLeast0 = 1.0
    mae_weight: AtLeast0 = 1.0
    ibot_weight: AtLeast0 = 0.0
    """Masked patches against the teacher's tokens of them (Zhou et al. 2022: 1); the reference has none."""
    koleo_weight: AtLeast0 = 0.0
    """Spreads the CLS tokens of a micro-batch over all ranks (Oquab et al. 2024, DINOv2: 0.1); the reference
    has none."""
    final_weights: dict[str, AtLeast0] = Field(default_factory=dict)
    """Weights that parts reach at the last step, along a cosine; parts not named here keep theirs (the
    papers' are constant)."""
    student_temperature: Above0 = 0.1
    teacher_temperature: tuple[Above0, Above0] = (0.04, 0.04)
    """Start and end of the linear warm-up (Caron et al. 2021: 0.04, raised only if stable)."""
    teacher_warmup: Fraction = 0.1
    """Share of all steps over which the teacher temperature warms up."""
    centring: Literal["mean", "sinkhorn"] = "mean"
    """What keeps the teacher from collapse: a running mean (Caron et al. 2021), or Sinkhorn-Knopp over the
    step's global batch (Caron et al. 2020, as in DINOv2)."""
    center_momentum: Fraction = 0.9
    sinkhorn_iterations: Positive = 3
    """Caron et al. 2020, section 3.1: 3."""
    ema: tuple[Fraction, Fraction] = (0.994, 1.0)
    """Teacher momentum, start and end of a cosine by step."""
    freeze_prototypes: Fraction = 0.01
    """Share of all steps in which the heads' last layers stay fixed (one epoch of 100)."""
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """He et al. 2022, figure 5."""
    normalise_patches: bool = True
    """MAE target normalised per patch (He et al. 2022, table 1d)."""
    ibot_mask_probability: Annotated[float, Field(gt=0, le=1)] = 0.5
    """How likely a global view is masked for iBOT at all (Zhou et al. 2022, section 4.1)."""
    ibot_mask_ratio: tuple[Fraction, Fraction] = (0.1, 0.5)
    """Least and greatest share of its patches that is masked then (Zhou et al. 2022: 0.3 ± 0.2)."""
    ibot_shared_head: bool = False
    """One head for CLS and patches (iBOT), or one each (DINOv2: better at scale)."""

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each part that is built, by its name."""
        weights = {name: getattr(self, f"{name}_weight") for name in ("dino", "ibot", "koleo", "mae")}
        return {name: weight for name, weight in weights.items() if weight}

    @property
    def distils(self) -> bool:
        """Whether a part learns from the teacher."""
        return bool(self.dino_weight or self.ibot_weight)

    @property
    def compares_views(self) -> bool:
        """Whether a part encodes all views, whole; MAE alone looks at the first one's visible patches."""
        return self.distils or bool(self.koleo_weight)

    @model_validator(mode="after")
    def _something_to_learn(self) -> "ObjectiveConfig":
        if not (self.distils or self.mae_weight):
            raise ValueError("objective.dino_weight, mae_weight and ibot_weight are all 0: nothing to learn")
        for part in self.final_weights:
            if part not in self.weights:
                built = ", ".join(self.weights)
                raise ValueError(f"objective.final_weights: {part} has no weight above 0; {built} have")
        if self.ibot_weight and self.ibot_shared_head and not self.dino_weight:
            raise ValueError(
                "objective.ibot_shared_head shares DINO's: objective.dino_weight must be above 0"
            )
        if not 0 < self.ibot_mask_ratio[0] <= self.ibot_mask_ratio[1] < 1:
            raise ValueError("objective.ibot_mask_ratio must rise from above 0 to below 1")
        return self


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
    """An encoder.safetensors to begin with, of another run or of `fmct convert-weights`; it must stay
    there while the run lasts. None: weights drawn from the seed."""
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
    """Save and stop when a process has run this long; under Slurm the job's own end is known without it."""
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
    """When a run is not sound."""

    not_finite: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is not finite does; a skipped step changes nothing and is recorded."""
    most_skipped: Positive = 10
    """Steps an attempt may skip: now and then bf16 overflows, more is a broken run."""
    collapse: Literal["warn", "stop"] = "warn"
    """What signs of collapse do, once they have lasted; a run may recover from them."""
    patience: Positive = 2000
    """Steps that a sign must last, or a quarter of the run's where these are fewer: early in a run features
    are nearly alike, and targets nearly uniform."""
    entropy_margin: Annotated[float, Field(gt=0, lt=1)] = 0.005
    """Share of log(model.prototypes) below it from which the teacher's mean entropy counts as uniform."""
    least_divergence: AtLeast0 = 0.01
    """Cross-entropy of student and teacher above the teacher's entropy, in nats (Caron et al. 2021, 5.3)."""
    least_feature_deviation: AtLeast0 = 0.05
    """Deviation of normalised CLS tokens times √width: about 1 when sound (Chen and He 2021, section 4.1)."""


class TrainConfig(Section):
    """All of `fmct train`."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    engine: EngineConfig = EngineConfig()
    run: RunConfig = RunConfig()
    health: HealthConfig = HealthConfig()
    privacy: Sharing = Sharing()

    def with_absolute_paths(self) -> "TrainConfig":
        """The same as records have it: whoever reads one is called from elsewhere."""
        data, start = self.data, self.run.start_from
        places = {"path": data.path.absolute(), "cache": data.cache and data.cache.absolute()}
        run = self.run.model_copy(update={"start_from": start and start.absolute()})
        return self.model_copy(update={"data": data.model_copy(update=places), "run": run})

    def accumulation(self, ranks: int) -> int:
        """Micro-batches a step: the fewest that are of one size and within engine.micro_batch.

        Raises FmctError where run.batch can't be shared out evenly to `ranks`, or KoLeo has none to compare.
        """
        share, rest = divmod(self.run.batch, ranks)
        if rest:
            raise FmctError(
                f"run.batch={self.run.batch} is not a multiple of {ranks} ranks: change one of them"
            )
        most = self.engine.micro_batch or share
        count = next(n for n in range(1, share + 1) if share % n == 0 and share // n <= most)
        if self.objective.koleo_weight and self.run.batch < 2 * count:
            raise FmctError(
                "objective.koleo_weight compares the volumes of a micro-batch over all ranks, which is one "
                "volume: raise run.batch or engine.micro_batch"
            )
        return count

    @model_validator(mode="after")
    def _patch_divides_view(self) -> "TrainConfig":
        if self.data.view_size % self.model.patch_size:
            raise ValueError("data.view_size must be a multiple of model.patch_size")
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "TrainConfig":
        if self.objective.dino_weight and self.data.global_views < 2:
            raise ValueError("objective.dino_weight needs data.global_views=2: DINO compares two views")
        if self.engine.compile and self.engine.zero_stage == 3:
            raise ValueError(
                "engine.compile needs engine.zero_stage 0 to 2: stage 3 gathers weights in the blocks"
            )
        return self
