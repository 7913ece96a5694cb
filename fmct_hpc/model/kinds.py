"""The kinds of encoder. A new kind is a file in this folder, and its lines here.

Configurations are read without PyTorch, so classes are named here and imported when they are built.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from fmct_hpc.fields import Size
    from fmct_hpc.model.backbone import Backbone
    from fmct_hpc.model.config import ModelConfig
    from fmct_hpc.model.encoder_size import EncoderSize


class EncoderKind(NamedTuple):
    """Properties of an encoder for configurations, estimates and reports, without building it."""

    place: str
    """module:class of a `fmct_hpc.model.backbone.Backbone`."""
    title: str
    """Name in the report."""
    follows: frozenset[str] = frozenset()
    """The keys of `model` in `OPTIONAL` that it supports."""
    has_cls: bool = True
    """Whether its first token summarises the view."""
    hides: bool = False
    """Whether it supports `masked` (`Backbone.forward`), a token in place of some patches, as for iBOT."""
    partial: bool = False
    """Whether it supports `keep`, encoding only some patches, as for MAE."""
    attends: bool = False
    """Whether its blocks are `fmct_hpc.model.block.Block`s, whose attention can be computed."""
    size: str = "fmct_hpc.model.encoder_size:EncoderSize"
    """module:class that counts its parameters and operations; the default measures them."""


Need = Literal["has_cls", "hides", "partial"]
NEEDS: dict[Need, str] = {
    "has_cls": "gives a CLS token",
    "hides": "hides patches behind a token",
    "partial": "encodes some patches alone",
}
"""Capabilities that a part of the objective may require: fields of the encoder's kind, as text."""

OPTIONAL = frozenset(
    {
        *("size", "heads", "mlp_ratio", "qkv_bias", "keep_tokens", "register_tokens"),
        *("positions", "rope_jitter", "layer_scale", "drop_path"),
    }
)
"""Keys of `model` that only some encoders support; for the others they must have their defaults."""

KINDS: dict[str, EncoderKind] = {
    "vit": EncoderKind(
        "fmct_hpc.model.vit:VisionTransformer",
        "3D ViT",
        follows=OPTIONAL,
        hides=True,
        partial=True,
        attends=True,
        size="fmct_hpc.model.vit_size:VitSize",
    ),
}
"""By model.kind."""

if TYPE_CHECKING:
    KindName = str
else:
    KindName = Literal[*KINDS]


def build_encoder(model: "ModelConfig", channels: int, view_size: "Size") -> "Backbone":
    """The encoder of `model` for views of `view_size` voxels and `channels` windows, with random weights."""
    encoder: Backbone = _imported(KINDS[model.kind].place)(model, channels, view_size)
    return encoder


def size_of(kind: str) -> "EncoderSize":
    """The counter of parameters and operations of encoders of a kind."""
    size: EncoderSize = _imported(KINDS[kind].size)()
    return size


def _imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)
