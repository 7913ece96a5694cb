"""Maps of a score: attention as blocks compute it, gradients as differences have them, voxels in place."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from small_sweep import AFFINE, bright_sweep
from typer.testing import CliRunner

from fmct_hpc.classifier.fit import fit
from fmct_hpc.classifier.kept import write_classifier
from fmct_hpc.classifier.predict import load_classifier
from fmct_hpc.inference.readers import Scan, read_scans
from fmct_hpc.model.attention import explicit_attention
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.relevance.attention_gradient import attention_gradient
from fmct_hpc.relevance.gradient_input import gradient_input
from fmct_hpc.relevance.integrated_gradients import integrated_gradients
from fmct_hpc.relevance.maps import Explainer, open_explainer
from fmct_hpc.relevance.methods import METHODS
from fmct_hpc.relevance.question import Question
from fmct_hpc.relevance.reading import Reading, reading_of_cls
from fmct_hpc.relevance.rollout import rollout
from launch.cli import app
from shards.errors import FmctError

MODELS = {
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


def asked(model: VisionTransformer, rows: list, layer: int = DEPTH - 1) -> Question:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).double()

    view = torch.rand(1, 2, 12, 12, 12, generator=generator).double()
    count = len(rows)
    rows = [drawn(WIDTH) if row == "query" else row for row in rows]
    mean, scale, readout = drawn(count, WIDTH), drawn(count, WIDTH).abs() + 0.5, drawn(count, WIDTH)
    reading = Reading(model.prefix, rows, mean, scale, readout, drawn(1)[0])
    return Question(model, view, model.kept(view), layer, reading)


@torch.no_grad()
def plain_attention(model: VisionTransformer, question: Question) -> tuple[list[np.ndarray], np.ndarray]:
    """Each block's weights (heads, T, T), one query at a time in NumPy, and the tokens behind the last."""
    width = WIDTH // 4
    x = model._embed(question.view, question.kept, None)
    turns = model._turns(question.view, question.kept, None)
    found = []
    for number, block in enumerate(model.blocks[: question.layer + 1]):
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
        # The block's own output, by the fused attention, is that of the weights times the values.
        own = block.attention(normed, None if turns is None else turns[number])
        again = block.attention.projection(torch.from_numpy(mixed))
        torch.testing.assert_close(own[0], again, atol=1e-5, rtol=0)
        found.append(weights)
        x = block(x, None, None if turns is None else turns[number])
    return found, model.norm(x)[0].numpy()


def test_weights_times_values_are_what_blocks_give(model: VisionTransformer) -> None:
    question = asked(model, ["cls"])
    plain, tokens = plain_attention(model, question)
    with torch.no_grad(), explicit_attention(model.blocks) as seen:
        again = question.tokens(question.view)
    assert len(seen) == DEPTH
    for weights, expected in zip(seen, plain, strict=True):
        np.testing.assert_allclose(weights[0].numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(again[0].numpy(), tokens, atol=1e-5)
    fused = question.tokens(question.view)
    torch.testing.assert_close(fused, again, atol=1e-5, rtol=0)
    with torch.no_grad():  # as trained, in float32
        single = model.float()
        view = question.view.float()
        with explicit_attention(single.blocks):
            by_weights = single(view, question.kept)
        torch.testing.assert_close(single(view, question.kept), by_weights, atol=1e-5, rtol=0)
    model.double()


@pytest.mark.parametrize("layer", [0, DEPTH - 1])
def test_rollout_equals_a_plain_loop(model: VisionTransformer, layer: int) -> None:
    question = asked(model, ["cls", "mean"], layer)
    plain, _ = plain_attention(model, question)
    product = np.eye(plain[0].shape[1])
    for weights in plain:
        mixed = weights.mean(axis=0) + np.eye(len(product))
        product = mixed / mixed.sum(axis=1, keepdims=True) @ product
    prefix = model.prefix
    expected = (product[0, prefix:] + product[prefix:, prefix:].mean(axis=0)) / 2
    np.testing.assert_allclose(rollout(question).numpy(), expected, atol=1e-9)
    bare = replace(question, reading=reading_of_cls(prefix, WIDTH, torch.device("cpu")))
    np.testing.assert_allclose(rollout(bare).numpy(), product[0, prefix:], atol=1e-9)
    assert product.sum(axis=1) == pytest.approx(1)


ROWS = [["cls"], ["cls", "mean"], ["mean", "max"], ["query", "query"]]


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_gradient_times_input_equals_differences(model: VisionTransformer, rows: list) -> None:
    """The derivative along a patch's own voxels, by central differences."""
    question = asked(model, rows)
    found = gradient_input(question).numpy()
    number = range(27) if question.kept is None else question.kept[0].tolist()
    for place in range(0, len(found), 5):
        d, h, w = np.unravel_index(number[place], (3, 3, 3))
        alone = torch.zeros_like(question.view)
        box = (..., *(slice(4 * n, 4 * n + 4) for n in (int(d), int(h), int(w))))
        alone[box] = question.view[box]
        with torch.no_grad():
            up, down = (question.logits(question.view + step * alone) for step in (1e-5, -1e-5))
        assert found[place] == pytest.approx(((up - down) / 2e-5).item(), rel=1e-4, abs=1e-7)


def test_integrated_gradients_sum_to_the_difference_from_air(model: VisionTransformer) -> None:
    question = asked(model, ["cls", "mean"])
    with torch.no_grad():
        both = question.logits(torch.cat([question.view, torch.zeros_like(question.view)]))
    difference = (both[0] - both[1]).item()
    assert integrated_gradients(question, 600).sum().item() == pytest.approx(difference, rel=1e-2)
    # One step is the gradient at the middle of the path.
    half = replace(question, view=question.view / 2)
    expected = 2 * gradient_input(half)
    torch.testing.assert_close(integrated_gradients(question, 1), expected)


@pytest.mark.parametrize("rows", [["cls"], ["query", "query"]], ids=str)
def test_attention_gradients_equal_differences_and_a_plain_loop(model: VisionTransformer, rows: list) -> None:
    question = asked(model, rows)
    plain, tokens = plain_attention(model, question)
    gradients = [differences(model, question, number, weights) for number, weights in enumerate(plain)]
    product = np.eye(len(tokens))
    for weights, gradient in zip(plain, gradients, strict=True):
        raised = np.maximum(weights * gradient, 0).mean(axis=0)
        product = product + raised @ product
    prefix, reading = model.prefix, question.reading
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
    np.testing.assert_allclose(attention_gradient(question).numpy(), expected, rtol=1e-3, atol=1e-6)


def differences(model: VisionTransformer, question: Question, number: int, weights: np.ndarray) -> np.ndarray:
    """∂logit/∂weight of a block for each of the weights, by central differences of the block's attention."""
    block = model.blocks[number]
    step = 1e-4
    found = np.zeros_like(weights)

    def logit(changed: torch.Tensor) -> float:
        def by_weights(module, inputs, output):
            value = module.queries_keys_values(*inputs)[2]
            return module.projection((changed @ value).transpose(1, 2).flatten(2))

        hook = block.attention.register_forward_hook(by_weights)
        with torch.no_grad():
            said = question.logits(question.view).item()
        hook.remove()
        return said

    base = torch.from_numpy(weights)[None]
    generator = np.random.default_rng(number)
    # All heads, keys and queries would be thousands of passes; what is not differenced is autograd's.
    with torch.enable_grad(), explicit_attention(model.blocks) as seen:
        tokens = question.tokens(question.view.detach().requires_grad_())
        logits = question.reading.logits(tokens, question.reading.weights(tokens))
        (own,) = torch.autograd.grad(logits.sum(), seen[number], materialize_grads=True, allow_unused=True)
    found[:] = own[0].numpy()
    for _ in range(12):
        place = tuple(int(generator.integers(n)) for n in weights.shape)
        nudge = torch.zeros_like(base)
        nudge[(0, *place)] = step
        slope = (logit(base + nudge) - logit(base - nudge)) / (2 * step)
        assert found[place] == pytest.approx(slope, rel=1e-3, abs=1e-6)
    return found
