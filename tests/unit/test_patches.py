"""Patches equal a convolution's and are inverted; positions of their grids."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import RegularGridInterpolator
from small_model import DECODER, SIZES, config, views

from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.patches import patchify, resize_positions, sincos_positions, unpatchify
from fmct_hpc.model.vit import VisionTransformer


def test_unpatchify_inverts_patchify_in_the_order_of_a_convolution() -> None:
    x = views(2)
    assert torch.equal(unpatchify(patchify(x, 4), 4, 12), x)
    weight = torch.rand(5, 3, 4, 4, 4)
    convolved = F.conv3d(x, weight, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patchify(x, 4) @ weight.flatten(1).T, convolved)


def test_anisotropic_patches_equal_a_convolution_and_are_inverted() -> None:
    x = torch.rand(2, 3, 4, 15, 12, generator=torch.Generator().manual_seed(1))
    patches = patchify(x, (2, 5, 4))
    assert torch.equal(unpatchify(patches, (2, 5, 4), x.shape[2:]), x)
    weight = torch.rand(5, 3, 2, 5, 4)
    convolved = F.conv3d(x, weight, stride=(2, 5, 4)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches @ weight.flatten(1).T, convolved)
    with pytest.raises(ValueError, match="multiple of the patch's"):
        patchify(x, (2, 4, 4))


def test_positions_of_an_anisotropic_grid_equal_those_in_a_cube() -> None:
    cube = sincos_positions(5, 36).reshape(5, 5, 5, 36)
    assert torch.equal(sincos_positions((2, 5, 3), 36), cube[:2, :, :3].flatten(0, 2))


def test_positions_are_distinct_and_left_over_channels_zero() -> None:
    positions = sincos_positions(4, 32)
    assert torch.cdist(positions, positions).add(torch.eye(64)).min() > 0.1
    assert positions[:, 30:].abs().max() == 0


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_views_of_another_size_get_interpolated_positions(positions: str) -> None:
    torch.manual_seed(0)
    encoder = VisionTransformer(config({"positions": positions}).model, channels=3, view_size=12)
    assert ("positions" in encoder.state_dict()) == (positions == "learned")
    x = torch.rand(1, 3, 20, 16, 12)
    assert encoder(x).shape == (1, encoder.prefix + 5 * 4 * 3, 36)
    assert encoder.positions is not None
    field = encoder.positions.detach().reshape(3, 3, 3, 36).numpy()
    places = [np.clip((np.arange(n) + 0.5) * 3 / n - 0.5, 0, 2) for n in (5, 4, 3)]
    expected = RegularGridInterpolator(3 * [np.arange(3)], field)(
        np.stack(np.meshgrid(*places, indexing="ij"), -1)
    )
    ours = resize_positions(encoder.positions, 3, (5, 4, 3)).detach()
    np.testing.assert_allclose(ours, expected.reshape(60, 36), atol=1e-6)
    with pytest.raises(ValueError, match=r"edge must be a multiple of"):
        encoder(torch.rand(1, 3, 12, 12, 13))


@pytest.mark.parametrize(("patch", "size", "other"), [(12, 96, 120), (16, 128, 96)])
def test_patches_of_12_and_16_accept_several_view_sizes(patch: int, size: int, other: int) -> None:
    model = ModelConfig.model_validate({**SIZES, **DECODER, "depth": 1, "patch_size": patch})
    encoder = VisionTransformer(model, 3, size)
    for edge in (size, other):
        tokens = encoder(torch.rand(1, 3, edge, edge, edge))
        assert tokens.shape == (1, encoder.prefix + (edge // patch) ** 3, 36)
