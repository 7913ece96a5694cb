"""The configuration of the network."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fmct_hpc.fields import Above0, AtLeast0, Below1, BoxSize, Positive
from fmct_hpc.model.kinds import KINDS, OPTIONAL, KindName
from shards.section import Section

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}
"""Width, depth and heads by name (S: Touvron et al. 2021, DeiT; B, L: Dosovitskiy et al. 2021, table 1)."""
_SHAPE = ("width", "depth", "heads")


class RopeJitter(Section):
    """Random changes of rotary coordinates in training, per step and block (DINOv3)."""

    shift: AtLeast0 = 0.0
    """Maximum shift of each axis, in either direction; a view spans 2. DINOv3's published value is 0."""
    stretch: Annotated[float, Field(ge=1)] = 1.0
    """Maximum factor s of each axis, log-uniform in [1/s, s]. DINOv3's published value is 1."""
    rescale: Annotated[float, Field(ge=1)] = 1.0
    """The same for all axes together. DINOv3's published value is 2 (Siméoni et al. 2025, section 3.2)."""

    @property
    def changes(self) -> bool:
        """Whether coordinates change."""
        return bool(self.shift) or self.stretch > 1 or self.rescale > 1


class ModelConfig(Section):
    """The encoder, a 3D vision transformer by default, and its heads.

    Give `size`, or `width`, `depth` and `heads`: a size sets the three and refuses other values beside it.
    """

    earlier = {"input_mean": 0.0, "input_std": 1.0, "initialisation": "fixed"}  # noqa: RUF012

    kind: KindName = "vit"
    """Kind of encoder (fmct_hpc/model/kinds.py). Keys that a kind does not support must have their
    default."""
    input_mean: float | tuple[float, ...] = 0.5
    """Subtracted from the encoder's input, windowed to [0, 1]: one value for all windows, or one each."""
    input_std: Above0 | tuple[Above0, ...] = 0.3
    """Divisor of the input after that. With 0.5 and 0.3, heads in the brain and subdural windows have mean 0
    and deviation 1 approximately; otherwise pretraining needs several times the steps (docs/training.md). The
    reference and encoders of version 0.1.0 have 0 and 1."""
    initialisation: Literal["fan_in", "fixed"] = "fan_in"
    """Initialisation of linear layers: uniform within ±1/√fan-in (PyTorch's default, in the reference's
    blocks), or a normal with deviation 0.02 for any width (DINO, version 0.1.0)."""
    patch_size: BoxSize = 12
    """Edge of a patch in voxels, or three, (D, H, W) (reference: 12)."""
    size: Literal["S", "B", "L"] | None = "B"
    """The reference has B; null if width, depth and heads are given."""
    width: Positive = 768
    depth: Positive = 12
    heads: Positive = 12
    mlp_ratio: Above0 = 4.0
    qkv_bias: bool = True
    """Bias of queries, keys and values; in the reference's configuration, but not in its published
    weights."""
    keep_tokens: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a view's patches that is encoded, ceil(share · N) of N: those with the most tissue
    (fmct_hpc/model/tissue.py); 1: all. The metric `tissue_dropped` is the share of tissue lost."""
    register_tokens: Annotated[int, Field(ge=0)] = 4
    """Darcet et al. 2024, "Vision Transformers Need Registers": 4."""
    positions: Literal["sincos", "learned", "rope"] = "sincos"
    """Positions: added fixed sines and cosines as in MAE, added learned ones initialised with these (the
    reference), or rotary ones (fmct_hpc/model/rope.py), which MAE's decoder does not use."""
    rope_jitter: RopeJitter = RopeJitter()
    layer_scale: Above0 | None = None
    """Initial value of a learned factor per channel of each branch (Touvron et al. 2021, "Going deeper with
    Image Transformers": 1e-5 for deep models); null: no factors, as in the reference."""
    drop_path: Below1 = 0.0
    """Probability that a sample skips a branch of the last block, rising linearly from 0 in the first (Huang
    et al. 2016, equation 4); 0.1 in DINO's ViTs, 0 in the reference."""
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
        follows = KINDS[kind].follows if known else OPTIONAL  # an unknown kind fails at its field
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
            raise ValueError(f"model.size={size}: model.kind={kind} has only width and depth")
        if size not in SIZES:
            return values  # fails at the field
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
                raise ValueError(f"model.{key}={value}: model.kind={self.kind} does not support it")
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
