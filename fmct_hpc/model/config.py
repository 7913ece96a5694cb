"""The network: its size, and what it is made of."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fmct_hpc.fields import Above0, AtLeast0, Below1, BoxSize, Positive
from fmct_hpc.model.kinds import KINDS, OPTIONAL, KindName
from shards.section import Section

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}
"""Width, depth and heads by name (S: Touvron et al. 2021, DeiT; B, L: Dosovitskiy et al. 2021, table 1)."""
_SHAPE = ("width", "depth", "heads")


class RopeJitter(Section):
    """How rotary coordinates are changed in training, by draws of each step and block (DINOv3)."""

    shift: AtLeast0 = 0.0
    """Greatest shift of an axis, either way; a view spans 2. DINOv3 publishes none."""
    stretch: Annotated[float, Field(ge=1)] = 1.0
    """Greatest factor of an axis, or its inverse least, log-uniform. DINOv3 publishes none (1)."""
    rescale: Annotated[float, Field(ge=1)] = 1.0
    """The same of all axes together. DINOv3 publishes 2 (Siméoni et al. 2025, section 3.2); 1: none."""

    @property
    def changes(self) -> bool:
        """Whether there is anything to draw."""
        return bool(self.shift) or self.stretch > 1 or self.rescale > 1


class ModelConfig(Section):
    """The encoder, a 3D vision transformer by default, and its heads.

    Give `size`, or `width`, `depth` and `heads`: a size sets the three and refuses other values beside it.
    """

    earlier = {"input_mean": 0.0, "input_std": 1.0, "initialisation": "fixed"}  # noqa: RUF012

    kind: KindName = "vit"
    """What the encoder is (fmct_hpc/model/kinds.py). A kind that does not follow a key refuses values other
    than its default."""
    input_mean: float | tuple[float, ...] = 0.5
    """What the encoder subtracts from its input, windowed to [0, 1]: for all windows, or one each."""
    input_std: Above0 | tuple[Above0, ...] = 0.3
    """What it then divides by. With 0.5 and 0.3 heads in the brain and subdural windows have about mean 0 and
    deviation 1, without which pretraining needs several times the steps (docs/training.md); the reference
    has 0 and 1, and so have the encoders of version 0.1.0."""
    initialisation: Literal["fan_in", "fixed"] = "fan_in"
    """Of linear layers: uniform within 1/√fan-in, PyTorch's default, which the reference's blocks keep; or a
    normal of deviation 0.02 whatever the width (DINO), as version 0.1.0 had."""
    patch_size: BoxSize = 12
    """Edge of a patch in voxels, or three, (D, H, W) (reference: 12)."""
    size: Literal["S", "B", "L"] | None = "B"
    """B is the reference's; none where width, depth and heads are given."""
    width: Positive = 768
    depth: Positive = 12
    heads: Positive = 12
    mlp_ratio: Above0 = 4.0
    qkv_bias: bool = True
    """Of queries, keys and values; the reference's configuration has it, its published weights do not."""
    keep_tokens: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a view's patches that is encoded: those with the most tissue (fmct_hpc/model/tissue.py),
    always ceil(share · N) of N; 1: all. `tissue_dropped` in the metrics says what a share below 1 loses."""
    register_tokens: Annotated[int, Field(ge=0)] = 4
    """Darcet et al. 2024, "Vision Transformers Need Registers": 4."""
    positions: Literal["sincos", "learned", "rope"] = "sincos"
    """Added to the patches, fixed sines and cosines as in MAE or learned ones that start as these (the
    reference's); or rotary ones (fmct_hpc/model/rope.py), which the decoder of MAE does not follow."""
    rope_jitter: RopeJitter = RopeJitter()
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
        kind = values.get("kind", "vit")
        known = isinstance(kind, str) and kind in KINDS
        follows = KINDS[kind].follows if known else OPTIONAL  # of an unknown one the field says what it takes
        shape_keys = [key for key in _SHAPE if key not in OPTIONAL or key in follows]
        given = [key for key in shape_keys if key in values]
        size = values.get("size", None if given or "size" not in follows else "B")
        if size is None:
            missing = [f"model.{key}" for key in shape_keys if key not in values]
            if missing:
                how = "model.size, or width, depth and heads" if "size" in follows else "both"
                raise ValueError(f"{' and '.join(missing)} missing: give {how}")
            return {**values, "size": None}
        if "size" not in follows:
            raise ValueError(f"model.size={size}: model.kind={kind} has width and depth alone")
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
    def _kind_follows_what_is_given(self) -> "ModelConfig":
        for key in sorted(OPTIONAL - KINDS[self.kind].follows - {"size"}):
            value = getattr(self, key)
            if value != type(self).model_fields[key].default:
                raise ValueError(f"model.{key}={value}: model.kind={self.kind} does not follow it")
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelConfig":
        for width, heads in (("width", "heads"), ("decoder_width", "decoder_heads")):
            follows = heads not in OPTIONAL or heads in KINDS[self.kind].follows
            if follows and getattr(self, width) % getattr(self, heads):
                raise ValueError(f"model.{width} must be a multiple of model.{heads}")
        return self

    @model_validator(mode="after")
    def _rope_has_channels(self) -> "ModelConfig":
        if self.positions == "rope" and self.width // self.heads < 6:
            raise ValueError("model.positions=rope needs model.width of at least 6 times model.heads")
        if self.rope_jitter.changes and self.positions != "rope":
            raise ValueError("model.rope_jitter needs model.positions=rope")
        return self
