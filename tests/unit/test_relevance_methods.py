"""Methods of relevance: attention as computed by blocks, gradients equal to differences."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fmct_hpc.model.attention import explicit_attention
from fmct_hpc.model.block import Attention, Block
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.relevance.attention_gradient import attention_gradient
from fmct_hpc.relevance.gradient_input import gradient_input
from fmct_hpc.relevance.integrated_gradients import integrated_gradients
from fmct_hpc.relevance.method_input import MethodInput
from fmct_hpc.relevance.reading import Reading, reading_of_cls
from fmct_hpc.relevance.rollout import rollout

MODELS: dict[str, dict[str, Any]] = {
    "rope": {"positions": "rope", "register_tokens": 2, "keep_tokens": 0.6},
    "sincos": {"positions": "sincos", "register_tokens": 0, "keep_tokens": 1.0, "layer_scale": 0.3},
}
WIDTH, DEPTH = 24, 3


@pytest.fixture(params=MODELS, scope="module")
def model(request: pytest.FixtureRequest) -> VisionTransformer:
    config = ModelConfig(patch_size=4, width=WIDTH, depth=DEPTH, heads=4, **MODELS[request.param])
    torch.manual_seed(0)
    made = VisionTransformer(config, channels=2, view_size=12).eval()
    for parameter in made.parameters():  # sharper than new weights, so that attention is not even
        torch.nn.init.normal_(parameter, std=0.25)
    return made.double()


def method_input(model: VisionTransformer, rows: list[str], layer: int = DEPTH - 1) -> MethodInput:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).double()

    view = torch.rand(1, 2, 12, 12, 12, generator=generator).double()
    count = len(rows)
    read = [drawn(WIDTH) if row == "query" else row for row in rows]
    mean, scale, readout = drawn(count, WIDTH), drawn(count, WIDTH).abs() + 0.5, drawn(count, WIDTH)
    reading = Reading(model.prefix, read, mean, scale, readout, drawn(1)[0])
    return MethodInput(model, view, model.kept(view), layer, reading)


@torch.no_grad()
def plain_attention(model: VisionTransformer, inputs: MethodInput) -> tuple[list[np.ndarray], np.ndarray]:
    """Each block's weights (heads, T, T), query by query in NumPy, and the tokens after the last block."""
    width = WIDTH // 4
    x = model.embed_patches(inputs.view, inputs.kept, None)
    turns = model.turns(inputs.view, inputs.kept, None)
    collected = []
    for number, block in enumerate(model.blocks[: inputs.layer + 1]):
        assert isinstance(block, Block)
        normed = block.attention_norm(x)
        parts = block.attention.queries_keys_values(normed, None if turns is None else turns[number])
        query, key, value = (part[0].numpy() for part in parts)
        weights = np.empty((4, query.shape[1], query.shape[1]))
        mixed = np.empty((query.shape[1], 4 * width))
        for head in range(4):
            for token in range(query.shape[1]):
                scores = np.array([query[head, token] @ other for other in key[head]]) / np.sqrt(width)
                powers = np.exp(scores - scores.max())
                weights[head, token] = powers / powers.sum()
                mixed[token, head * width : (head + 1) * width] = weights[head, token] @ value[head]
        # The block's output with fused attention equals the weights times the values.
        own = block.attention(normed, None if turns is None else turns[number])
        again = block.attention.projection(torch.from_numpy(mixed))
        torch.testing.assert_close(own[0], again, atol=1e-5, rtol=0)
        collected.append(weights)
        x = block(x, None, None if turns is None else turns[number])
    return collected, model.norm(x)[0].numpy()


def test_attention_weights_times_values_equal_the_output_of_blocks(model: VisionTransformer) -> None:
    inputs = method_input(model, ["cls"])
    plain, tokens = plain_attention(model, inputs)
    with torch.no_grad(), explicit_attention(model.blocks) as seen:
        again = inputs.tokens(inputs.view)
    assert len(seen) == DEPTH
    for weights, expected in zip(seen, plain, strict=True):
        np.testing.assert_allclose(weights[0].numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(again[0].numpy(), tokens, atol=1e-5)
    fused = inputs.tokens(inputs.view)
    torch.testing.assert_close(fused, again, atol=1e-5, rtol=0)
    with torch.no_grad():  # as trained, in float32
        single = model.float()
        view = inputs.view.float()
        with explicit_attention(single.blocks):
            by_weights = single(view, inputs.kept)
        torch.testing.assert_close(single(view, inputs.kept), by_weights, atol=1e-5, rtol=0)
    model.double()


@pytest.mark.parametrize("layer", [0, DEPTH - 1])
def test_rollout_equals_a_plain_loop(model: VisionTransformer, layer: int) -> None:
    inputs = method_input(model, ["cls", "mean"], layer)
    plain, _ = plain_attention(model, inputs)
    product = np.eye(plain[0].shape[1])
    for weights in plain:
        mixed = weights.mean(axis=0) + np.eye(len(product))
        product = mixed / mixed.sum(axis=1, keepdims=True) @ product
    prefix = model.prefix
    expected = (product[0, prefix:] + product[prefix:, prefix:].mean(axis=0)) / 2
    np.testing.assert_allclose(rollout(inputs)[0].numpy(), expected, atol=1e-9)
    bare = replace(inputs, reading=reading_of_cls(prefix, WIDTH, torch.device("cpu")))
    np.testing.assert_allclose(rollout(bare)[0].numpy(), product[0, prefix:], atol=1e-9)
    assert product.sum(axis=1) == pytest.approx(1)


ROWS = [["cls"], ["cls", "mean"], ["mean", "max"], ["query", "query"]]


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_gradient_times_input_equals_differences(model: VisionTransformer, rows: list[str]) -> None:
    """The derivative along a patch's own voxels, by central differences."""
    inputs = method_input(model, rows)
    actual = gradient_input(inputs)[0].numpy()
    number = range(27) if inputs.kept is None else inputs.kept[0].tolist()
    for place in range(0, len(actual), 5):
        d, h, w = (slice(4 * int(n), 4 * int(n) + 4) for n in np.unravel_index(number[place], (3, 3, 3)))
        alone = torch.zeros_like(inputs.view)
        alone[..., d, h, w] = inputs.view[..., d, h, w]
        with torch.no_grad():
            up, down = (inputs.logits(inputs.view + step * alone) for step in (1e-5, -1e-5))
        assert actual[place] == pytest.approx(((up - down) / 2e-5).item(), rel=1e-4, abs=1e-7)


def test_integrated_gradients_sum_to_the_difference_from_air(model: VisionTransformer) -> None:
    inputs = method_input(model, ["cls", "mean"])
    with torch.no_grad():
        both = inputs.logits(torch.cat([inputs.view, torch.zeros_like(inputs.view)]))
    difference = (both[0] - both[1]).item()
    assert integrated_gradients(inputs, 100).sum().item() == pytest.approx(difference, rel=5e-2)
    # One step is the gradient at the middle of the path.
    half = replace(inputs, view=inputs.view / 2)
    expected = 2 * gradient_input(half)
    torch.testing.assert_close(integrated_gradients(inputs, 1), expected)


@pytest.mark.parametrize("rows", [["cls"], ["query", "query"]], ids=str)
def test_attention_gradients_equal_differences_and_a_plain_loop(
    model: VisionTransformer, rows: list[str]
) -> None:
    inputs = method_input(model, rows)
    plain, tokens = plain_attention(model, inputs)
    gradients = [differences(model, inputs, number, weights) for number, weights in enumerate(plain)]
    product = np.eye(len(tokens))
    for weights, gradient in zip(plain, gradients, strict=True):
        raised = np.maximum(weights * gradient, 0).mean(axis=0)
        product = product + raised @ product
    prefix, reading = model.prefix, inputs.reading
    if rows == ["cls"]:
        expected = product[0, prefix:]
    else:
        expected = np.zeros(len(tokens) - prefix)
        for row, query in enumerate(reading.rows):
            mean, scale, readout = (
                part[row].numpy() for part in (reading.mean, reading.scale, reading.readout)
            )
            standard = (tokens - mean) * scale
            powers = np.exp(standard[prefix:] @ np.asarray(query))
            own = powers / powers.sum() * (standard[prefix:] @ readout)
            expected += np.maximum(own, 0) @ product[prefix:, prefix:]
    np.testing.assert_allclose(attention_gradient(inputs)[0].numpy(), expected, rtol=1e-3, atol=1e-6)


def differences(
    model: VisionTransformer, inputs: MethodInput, number: int, weights: np.ndarray
) -> np.ndarray:
    """∂logit/∂weight of a block for each of the weights, by central differences of the block's attention."""
    block = model.blocks[number]
    assert isinstance(block, Block)
    step = 1e-4
    actual = np.zeros_like(weights)

    def logit(changed: torch.Tensor) -> float:
        def by_weights(
            module: Attention, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
        ) -> torch.Tensor:
            value = module.queries_keys_values(*inputs)[2]
            mixed: torch.Tensor = module.projection((changed @ value).transpose(1, 2).flatten(2))
            return mixed

        hook = block.attention.register_forward_hook(by_weights)
        with torch.no_grad():
            logit = inputs.logits(inputs.view).item()
        hook.remove()
        return logit

    base = torch.from_numpy(weights)[None]
    generator = np.random.default_rng(number)
    # All heads, keys and queries would be thousands of passes; the others are autograd's.
    with torch.enable_grad(), explicit_attention(model.blocks) as seen:
        tokens = inputs.tokens(inputs.view.detach().requires_grad_())
        logits = inputs.reading.logits(tokens, inputs.reading.weights(tokens))
        (own,) = torch.autograd.grad(logits.sum(), seen[number], materialize_grads=True, allow_unused=True)
    actual[:] = own[0].numpy()
    for _ in range(12):
        place = tuple(int(generator.integers(n)) for n in weights.shape)
        nudge = torch.zeros_like(base)
        nudge[(0, *place)] = step
        slope = (logit(base + nudge) - logit(base - nudge)) / (2 * step)
        assert actual[place] == pytest.approx(slope, rel=1e-3, abs=1e-6)
    return actual
