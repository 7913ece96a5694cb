"""Convert weights of the reference (NYUMedML/headCT_foundation: ViT, DINOHead, MaskedAutoencoderViT) and
back.

The two differ in names and in the order of some tensors. The reference's images have axes (x, y, z), ours (D,
H, W) = (z, y, x), so patch kernels, positions and predicted patches are transposed: the reference's output
for an image equals ours for the transposed image. Nothing is rounded, and the inverse is exact.
"""

import re
from collections.abc import Callable, Iterator
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fmct_hpc.fields import Edges, Size, edges, size_text
from fmct_hpc.model.config import SIZES, ModelConfig
from fmct_hpc.model.inputs import Standardise
from fmct_hpc.model.patches import grid_of, sincos_positions
from shards.errors import FmctError

Weights = dict[str, Tensor]
Part = Literal["", "head", "decoder"]

_BLOCK = {
    "att_norm": "attention_norm",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.projection",
    "ffn_norm": "mlp_norm",
    "mlp.linear1": "mlp.0",
    "mlp.linear2": "mlp.2",
}
"""Names of a block's layers, theirs to ours."""
_WRAPPERS = re.compile(r"module\.|backbone\.|_orig_mod\.")
"""Prefixes of DistributedDataParallel, the reference's MultiCropWrapper and torch.compile."""
_WHAT = "the reference's ViT, its DINO head or its MAE"


class Network(NamedTuple):
    """An encoder, optionally with a DINO head or an MAE decoder, by the student's names."""

    model: ModelConfig
    channels: int
    view_size: Size
    part: Part
    """The part besides the encoder; empty without one."""
    weights: Weights


def from_reference(state: Weights, heads: int | None = None, decoder_heads: int | None = None) -> Network:
    """Convert a state dictionary of the reference's ViT, with or without a DINO head, or of its MAE.

    heads, decoder_heads: not determined by the weights; None: one per 64 channels, and 16, as in the
    reference. Raises FmctError that names the weight that does not match.
    """
    left = {_WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    network = _measure(left, heads, decoder_heads)
    for name, constant in _constants(network).items():
        given = left.pop(name, torch.empty(0))
        if given.shape != constant.shape or not torch.allclose(given.float(), constant, atol=1e-5):
            raise FmctError(
                f"{name}: missing or not {_CONSTANTS[name]}, the only value that our model supports"
            )
    weights = network.weights
    for entry in _entries(network):
        if entry.theirs in left:
            weights[entry.ours] = _reordered(entry, left.pop(entry.theirs))
        elif not entry.optional:
            raise FmctError(f"{entry.theirs}: missing, so this is not {_WHAT}")
    if left:
        raise FmctError(f"{next(iter(left))}: unknown, so this is not {_WHAT}")
    weights["encoder.prefix_tokens"] = torch.cat([weights.pop(n) for n in (_CLS, _REGISTERS) if n in weights])
    for layer in _BIASED:  # the reference's MAE has no bias here without use_bias; 0 is equivalent
        if f"{layer}.weight" in weights:
            weights.setdefault(f"{layer}.bias", torch.zeros(len(weights[f"{layer}.weight"])))
    return network


def to_reference(network: Network) -> Weights:
    """The inverse of `from_reference`; raises FmctError for models that the reference does not support."""
    model = network.model
    for key, size in (("data.view_size", network.view_size), ("model.patch_size", model.patch_size)):
        if not isinstance(size, int):
            raise FmctError(f"{key}: {size_text(size)}; the reference's model supports only cubes")
    if model.layer_scale is not None:
        raise FmctError("model.layer_scale: the reference's model does not support it")
    if model.positions == "rope":
        raise FmctError("model.positions: the reference's model does not support rotary positions")
    weights = _with_constants_folded(network)
    prefix = weights.pop("encoder.prefix_tokens")
    weights[_CLS] = prefix[:1]
    if model.register_tokens:
        weights[_REGISTERS] = prefix[1:]
    grid = grid_of(network.view_size, model.patch_size)
    weights.setdefault("encoder.positions", sincos_positions(grid, model.width))
    for layer in _BIASED:
        if not model.qkv_bias and f"{layer}.bias" in weights and not weights[f"{layer}.bias"].any():
            del weights[f"{layer}.bias"]
    entries = [entry for entry in _entries(network) if entry.ours in weights or not entry.optional]
    state = {entry.theirs: entry.layout.theirs(weights[entry.ours]).contiguous() for entry in entries}
    return state | _constants(network)


def _with_constants_folded(network: Network) -> Weights:
    """Equivalent weights for input without standardisation: W·(x - m)/s + b = (W/s)·x + (b - (W/s)·m).

    A decoder keeps its weights: it is the reference's, whose targets are windowed values.
    """
    model, weights = network.model, dict(network.weights)
    standardise = Standardise(model.input_mean, model.input_std, network.channels)
    values = prod(edges(model.patch_size))
    mean, std = (t.flatten().double().repeat_interleave(values) for t in (standardise.mean, standardise.std))
    weight = weights["encoder.embedding.weight"].double() / std
    bias = weights["encoder.embedding.bias"].double() - weight @ mean
    return weights | {"encoder.embedding.weight": weight.float(), "encoder.embedding.bias": bias.float()}


class _Layout(NamedTuple):
    """Conversions between two layouts of the same values."""

    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]


class _Entry(NamedTuple):
    theirs: str
    ours: str
    layout: _Layout
    optional: bool = False


_SAME = _Layout(lambda t: t, lambda t: t)
_ROWS = _Layout(lambda t: t[0], lambda t: t[None])
_VECTOR = _Layout(lambda t: t[0, 0], lambda t: t[None, None])
_CLS, _REGISTERS = "encoder.prefix_tokens[:1]", "encoder.prefix_tokens[1:]"
"""Two tensors of theirs are one of ours."""
_BIASED = ("decoder.embedding", "decoder.voxels")
_CONSTANTS = {
    "head.last_layer.weight_g": "1 (NORM_LAST_LAYER)",
    "decoder_pos_embed": "sines and cosines (POS_EMBED: sincos)",
}


def _reordered(entry: _Entry, tensor: Tensor) -> Tensor:
    try:
        return entry.layout.ours(tensor).contiguous()
    except (RuntimeError, IndexError):
        shape = tuple(tensor.shape)
        raise FmctError(f"{entry.theirs}: shape {shape} does not match the other weights") from None


def _constants(network: Network) -> Weights:
    """Constant weights of the reference, which our model computes."""
    model = network.model
    if network.part == "head":
        return {"head.last_layer.weight_g": torch.ones(model.prototypes, 1)}
    if network.part == "decoder":
        grid = grid_of(network.view_size, model.patch_size)
        positions = _turn(sincos_positions(grid, model.decoder_width), grid)
        return {"decoder_pos_embed": positions[None].contiguous()}
    return {}


def _entries(network: Network) -> Iterator[_Entry]:
    """Every trained weight of a network, with both names."""
    model, cube = network.model, edges(network.model.patch_size)
    grid = grid_of(network.view_size, model.patch_size)
    kernel = _Layout(  # (width, C, x, y, z) and (width, C · z · y · x)
        lambda t: t.permute(0, 1, 4, 3, 2).flatten(1),
        lambda t: t.unflatten(1, (network.channels, *cube)).permute(0, 1, 4, 3, 2),
    )
    places = _Layout(lambda t: _turn(t[0], grid), lambda t: _turn(t, grid)[None])
    yield _Entry("cls_token", _CLS, _ROWS)
    yield _Entry("register_tokens", _REGISTERS, _ROWS, optional=True)
    yield _Entry("patch_embedding.patch_embeddings.weight", "encoder.embedding.weight", kernel)
    yield _Entry("patch_embedding.patch_embeddings.bias", "encoder.embedding.bias", _SAME)
    yield _Entry("patch_embedding.position_embeddings", "encoder.positions", places)
    yield from _blocks("blocks", "encoder.blocks", model.depth)
    yield from _layer("norm", "encoder.norm")
    if network.part == "head":
        for number in (0, 2, 4):
            yield from _layer(f"head.mlp.{number}", f"head.mlp.{number}")
        yield _Entry("head.last_layer.weight_v", "head.prototypes.weight", _SAME)
    if network.part == "decoder":
        voxels = _Layout(  # rows (x · y · z · C) and (C · z · y · x)
            lambda t: t.unflatten(0, (*cube, network.channels)).transpose(0, 2).movedim(3, 0).flatten(0, 3),
            lambda t: t.unflatten(0, (network.channels, *cube)).movedim(0, 3).transpose(0, 2).flatten(0, 3),
        )
        yield _Entry("mask_token", "decoder.mask_token", _VECTOR)
        yield _Entry("decoder_cls_token", "decoder.prefix_positions", _ROWS)
        yield from _layer("decoder_embed", "decoder.embedding", bias_optional=True)
        yield from _blocks("decoder_blocks", "decoder.blocks", model.decoder_depth)
        yield from _layer("decoder_norm", "decoder.norm")
        yield _Entry("decoder_pred.weight", "decoder.voxels.weight", voxels)
        yield _Entry("decoder_pred.bias", "decoder.voxels.bias", voxels, optional=True)


def _blocks(theirs: str, ours: str, depth: int) -> Iterator[_Entry]:
    for number in range(depth):
        for their_layer, our_layer in _BLOCK.items():
            names = f"{theirs}.{number}.{their_layer}", f"{ours}.{number}.{our_layer}"
            yield from _layer(*names, bias_optional=their_layer == "attn.qkv")


def _layer(theirs: str, ours: str, bias_optional: bool = False) -> Iterator[_Entry]:
    yield _Entry(f"{theirs}.weight", f"{ours}.weight", _SAME)
    yield _Entry(f"{theirs}.bias", f"{ours}.bias", _SAME, bias_optional)


def _turn(places: Tensor, grid: Edges) -> Tensor:
    """Rows of a cube's grid in C order of (x, y, z) to C order of (z, y, x), and back: (N, width)."""
    return places.unflatten(0, grid).transpose(0, 2).flatten(0, 2)


def _measure(state: Weights, heads: int | None, decoder_heads: int | None) -> Network:
    """The architecture, derived from the shapes; without weights."""

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        if name not in state or state[name].ndim != dimensions:
            raise FmctError(f"{name}: missing or not of {dimensions} dimensions, so this is not {_WHAT}")
        return tuple(state[name].shape)

    width, channels, patch, *edges = shape("patch_embedding.patch_embeddings.weight", 5)
    patches = shape("patch_embedding.position_embeddings", 3)[1]
    grid = round(patches ** (1 / 3))
    for tokens in ("cls_token", *(["register_tokens"] if "register_tokens" in state else [])):
        if shape(tokens, 3)[2] != width:
            shape_of = tuple(state[tokens].shape)
            raise FmctError(f"{tokens}: shape {shape_of} does not match the other weights")
    if edges != [patch, patch] or grid**3 != patches:
        raise FmctError(
            f"patch_embedding: {patches} patches of {(patch, *edges)}: only cubes can be converted"
        )
    values: dict[str, Any] = {
        "patch_size": patch,
        "width": width,
        "depth": _count(state, "blocks"),
        "heads": _heads(width, heads, max(1, width // 64), "--heads"),
        "mlp_ratio": shape("blocks.0.mlp.linear1.weight", 2)[0] / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "register_tokens": shape("register_tokens", 3)[1] if "register_tokens" in state else 0,
        "positions": "learned",
    }
    part: Part = ""
    if "head.last_layer.weight_v" in state:
        part = "head"
        values["prototypes"], values["head_bottleneck"] = shape("head.last_layer.weight_v", 2)
        values["head_hidden"] = shape("head.mlp.0.weight", 2)[0]
    elif "decoder_embed.weight" in state:
        part = "decoder"
        decoder_width = shape("decoder_embed.weight", 2)[0]
        values |= {
            "decoder_width": decoder_width,
            "decoder_depth": _count(state, "decoder_blocks"),
            "decoder_heads": _heads(decoder_width, decoder_heads, 16, "--decoder-heads"),
        }
    for size, sizes in SIZES.items():
        if sizes == (values["width"], values["depth"], values["heads"]):
            values["size"] = size
    return Network(ModelConfig.from_record(values), channels, grid * patch, part, {})


def _count(state: Weights, stack: str) -> int:
    numbers = {name.split(".")[1] for name in state if name.startswith(f"{stack}.")}
    if not numbers:
        raise FmctError(f"{stack}.0: missing, so this is not {_WHAT}")
    return len(numbers)


def _heads(width: int, given: int | None, usual: int, option: str) -> int:
    heads = given or usual
    if width % heads:
        raise FmctError(f"{heads} heads do not divide a width of {width}: set their number with {option}")
    return heads
