"""The encoder equals a rebuild from torch's parts; masked patches, dropped paths, options, new weights."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_model import config, views

from fmct_hpc.model.block import Block
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.decoder import MaeDecoder
from fmct_hpc.model.heads import DinoHead
from fmct_hpc.model.patches import patchify, sincos_positions, unpatchify
from fmct_hpc.model.vit import VisionTransformer


@pytest.fixture
def encoder() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(config().model, channels=3, view_size=12).double()


def test_forward_equals_a_rebuild_from_torch_parts(encoder: VisionTransformer) -> None:
    x = views(2).double()
    patches = patchify((x - encoder.standardise.mean) / encoder.standardise.std, 4)
    tokens = patches @ encoder.embedding.weight.T + encoder.embedding.bias + sincos_positions(3, 36)
    tokens = torch.cat([encoder.prefix_tokens.expand(2, -1, -1), tokens], 1)
    for block in encoder.blocks:
        assert isinstance(block, Block)
        first, last = block.mlp[0], block.mlp[2]
        assert isinstance(first, torch.nn.Linear)
        assert isinstance(last, torch.nn.Linear)
        attention = torch.nn.MultiheadAttention(36, 3, batch_first=True).double()
        attention.in_proj_weight.data = block.attention.qkv.weight.data
        attention.in_proj_bias.data = block.attention.qkv.bias.data
        attention.out_proj.weight.data = block.attention.projection.weight.data
        attention.out_proj.bias.data = block.attention.projection.bias.data
        y = F.layer_norm(tokens, (36,), block.attention_norm.weight, block.attention_norm.bias, 1e-5)
        tokens = tokens + attention(y, y, y)[0]
        y = F.layer_norm(tokens, (36,), block.mlp_norm.weight, block.mlp_norm.bias, 1e-5)
        hidden = F.gelu(y @ first.weight.T + first.bias)
        tokens = tokens + hidden @ last.weight.T + last.bias
    expected = F.layer_norm(tokens, (36,), encoder.norm.weight, encoder.norm.bias, 1e-6)
    torch.testing.assert_close(encoder(x), expected, atol=1e-10, rtol=0)


def test_keeping_all_patches_in_another_order_changes_nothing(encoder: VisionTransformer) -> None:
    x = views(2).double()
    keep = torch.stack([torch.randperm(27, generator=torch.Generator().manual_seed(s)) for s in (0, 1)])
    whole, permuted = encoder(x), encoder(x, keep)
    torch.testing.assert_close(permuted[:, : encoder.prefix], whole[:, : encoder.prefix])
    for row, order in enumerate(keep):
        torch.testing.assert_close(permuted[row, encoder.prefix :], whole[row, encoder.prefix :][order])


def test_masked_voxels_have_no_influence(encoder: VisionTransformer) -> None:
    x = views(1).double()
    keep = torch.tensor([[0, 5, 13]])
    hidden = torch.ones(1, 27, dtype=torch.bool).scatter(1, keep, False)
    patches = patchify(x, 4)
    other = unpatchify(torch.where(hidden.unsqueeze(-1), torch.rand_like(patches), patches), 4, 12)
    assert torch.equal(encoder(x, keep), encoder(other, keep))
    assert not torch.equal(encoder(x), encoder(other))


def test_a_dropped_path_skips_the_block_and_a_scale_of_one_changes_nothing() -> None:
    torch.manual_seed(0)
    encoder = VisionTransformer(config().model, channels=3, view_size=12)
    x = views(2)
    ones = torch.ones(2, 2, 2)
    assert torch.equal(encoder(x, path_scales=ones), encoder(x))
    ones[1] = 0
    half = encoder(x, path_scales=ones)
    assert torch.equal(half[0], encoder(x)[0])
    patches = patchify(encoder.standardise(x), 4)
    tokens = torch.cat([encoder.prefix_tokens, encoder.embedding(patches)[1] + encoder.positions])
    torch.testing.assert_close(half[1], encoder.norm(tokens))


def test_registers_layer_scale_and_qkv_bias_are_optional() -> None:
    bare = VisionTransformer(config({"register_tokens": 0, "qkv_bias": False}).model, 3, 12)
    assert bare(views(1)).shape == (1, 1 + 27, 36)
    assert not any("qkv.bias" in name or "scale" in name for name in bare.state_dict())
    scaled = VisionTransformer(config({"layer_scale": 1e-5}).model, 3, 12)
    assert sum("scale.factor" in name for name in scaled.state_dict()) == 4
    assert (scaled(views(1))[:, 1:5] - scaled.norm(scaled.prefix_tokens[1:])).abs().max() < 1e-2


@pytest.mark.parametrize("width", [64, 192, 384, 768, 1024])
def test_layers_are_initialised_with_the_spread_of_the_reference(width: int) -> None:
    """The reference's blocks are plain nn.Linear layers, its prototypes too: PyTorch's own defaults."""
    torch.manual_seed(0)
    model = ModelConfig.model_validate(
        {"width": width, "depth": 1, "heads": 4, "head_hidden": 2 * width, "head_bottleneck": width // 2}
        | {"prototypes": 512, "patch_size": 4, "decoder_width": width, "decoder_depth": 1}
    )
    modules = (VisionTransformer(model, 3, 8), DinoHead(model), MaeDecoder(model, 3, 8))
    weights = {
        f"{type(module).__name__}.{name}": parameter
        for module in modules
        for name, parameter in module.named_parameters()
        if parameter.ndim == 2 and "tokens" not in name and "prefix_positions" not in name
    }
    assert len(weights) == 5 + 4 + 6
    for name, weight in weights.items():
        theirs = torch.nn.Linear(weight.shape[1], weight.shape[0]).weight
        assert weight.std().item() == pytest.approx(theirs.std().item(), rel=0.05), name
        assert weight.abs().max().item() <= weight.shape[1] ** -0.5
    fixed = VisionTransformer(model.model_copy(update={"initialisation": "fixed"}), 3, 8)
    assert fixed.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("constants", [(0.5, 0.3), ((0.2, 0.5, 0.4), (0.3, 0.1, 0.2))])
def test_input_is_standardised_window_by_window(constants: Any) -> None:
    """The same weights on manually standardised input, without constants in the model."""
    torch.manual_seed(0)
    mean, std = constants
    encoder = VisionTransformer(config({"input_mean": mean, "input_std": std}).model, 3, 12)
    plain = VisionTransformer(config({"input_mean": 0, "input_std": 1}).model, 3, 12)
    plain.load_state_dict(encoder.state_dict())  # the constants are in no checkpoint
    x = views(2)
    by_hand = (x - torch.tensor(mean).expand(3)[:, None, None, None]) / torch.tensor(std).expand(3)[
        :, None, None, None
    ]
    torch.testing.assert_close(encoder(x), plain(by_hand))
    torch.testing.assert_close(encoder.standardise.inverse(encoder.standardise(x)), x)
    assert plain.standardise(x) is x
