"""The encoders that can be pretrained. A new one is a file of this folder, and its lines here.

Configurations are read without PyTorch, so an encoder's class is named here and imported when it is built.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from fmct_hpc.fields import Size
    from fmct_hpc.model.backbone import Backbone
    from fmct_hpc.model.config import ModelConfig
    from fmct_hpc.model.encoder_size import EncoderSize


class EncoderKind(NamedTuple):
    """What configurations, estimates and reports know of an encoder without building it."""

    place: str
    """module:class of a `fmct_hpc.model.backbone.Backbone`."""
    title: str
    """In the report."""
    follows: frozenset[str] = frozenset()
    """Keys of `model` that it follows, of those that not all encoders do (`OPTIONAL`)."""
    has_cls: bool = True
    """Whether its first token is of the whole view."""
    hides: bool = False
    """Whether it takes `masked` (`Backbone.forward`): a token in the place of some patches, as for iBOT."""
    partial: bool = False
    """Whether it takes `keep`: it encodes some patches alone, as for MAE."""
    attends: bool = False
    """Whether its blocks are `fmct_hpc.model.block.Block`s, whose attention can be looked at."""
    size: str = "fmct_hpc.model.encoder_size:EncoderSize"
    """module:class that counts its parameters and operations; this one measures them."""


Need = Literal["has_cls", "hides", "partial"]
NEEDS: dict[Need, str] = {
    "has_cls": "gives a CLS token",
    "hides": "hides patches behind a token",
    "partial": "encodes some patches alone",
}
"""What a part of the objective can need of an encoder: fields of its kind, in words."""

OPTIONAL = frozenset(
    {
        *("size", "heads", "mlp_ratio", "qkv_bias", "keep_tokens", "register_tokens"),
        *("positions", "rope_jitter", "layer_scale", "drop_path"),
    }
)
"""Keys of `model` that only some encoders follow; the others refuse values other than the defaults."""

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
    """The encoder of `model` for views of `view_size` voxels and `channels` windows, with drawn weights."""
    encoder: Backbone = _imported(KINDS[model.kind].place)(model, channels, view_size)
    return encoder


def size_of(kind: str) -> "EncoderSize":
    """What counts the parameters and operations of encoders of a kind."""
    size: EncoderSize = _imported(KINDS[kind].size)()
    return size


def _imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)
