"""Weights in the reference's layout: features against a reimplementation, and the reverse conversion.

The reimplementation of the forward pass follows the architecture of NYUMedML/headCT_foundation (vit.py,
attentionblock.py, patch_embedding.py, mae.py, dino_head.py) in plain torch functions, on its axes (x, y, z)
and names.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from fmct_hpc import load_encoder
from fmct_hpc.config import TrainConfig
from fmct_hpc.model.reference import from_reference, to_reference
from fmct_hpc.objective.student import Student
from fmct_hpc.train.checkpoint import DataFacts
from fmct_hpc.train.convert import convert_weights
from fmct_hpc.train.export import export_encoder
from fmct_hpc.train.start import initial, require_start
from launch.cli import app
from shards.errors import FmctError

State = dict[str, Tensor]
WIDTH, DEPTH, HEADS, PATCH, GRID, CHANNELS = 48, 2, 4, 4, 3, 3
DECODER_WIDTH, DECODER_HEADS = 36, 2
RANDOM = torch.Generator().manual_seed(0)


def random(*shape: int, scale: float = 0.2) -> Tensor:
    return torch.randn(*shape, generator=RANDOM) * scale


def sincos(width: int) -> Tensor:
    """(1, x · y · z, width): sines and cosines of y, then x, then z (the reference's pos_embed.py)."""
    x, y, z = torch.meshgrid(*(3 * [torch.arange(GRID, dtype=torch.float32)]), indexing="ij")
    omega = torch.arange(width // 6, dtype=torch.float32) / (width // 6)
    omega = 1.0 / (10000.0**omega)
    angles = [torch.einsum("m,d->md", axis.flatten(), omega) for axis in (y, x, z)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)[None]


def block_state(name: str, width: int, qkv_bias: bool) -> State:
    state = {
        f"{name}.att_norm.weight": 1 + random(width),
        f"{name}.att_norm.bias": random(width),
        f"{name}.attn.qkv.weight": random(3 * width, width),
        f"{name}.attn.proj.weight": random(width, width),
        f"{name}.attn.proj.bias": random(width),
        f"{name}.ffn_norm.weight": 1 + random(width),
        f"{name}.ffn_norm.bias": random(width),
        f"{name}.mlp.linear1.weight": random(4 * width, width),
        f"{name}.mlp.linear1.bias": random(4 * width),
        f"{name}.mlp.linear2.weight": random(width, 4 * width),
        f"{name}.mlp.linear2.bias": random(width),
    }
    return state | ({f"{name}.attn.qkv.bias": random(3 * width)} if qkv_bias else {})


def vit_state(registers: int = 4, qkv_bias: bool = True) -> State:
    state = {
        "cls_token": random(1, 1, WIDTH),
        "patch_embedding.patch_embeddings.weight": random(WIDTH, CHANNELS, PATCH, PATCH, PATCH),
        "patch_embedding.patch_embeddings.bias": random(WIDTH),
        "patch_embedding.position_embeddings": sincos(WIDTH) + random(1, GRID**3, WIDTH),
        "norm.weight": 1 + random(WIDTH),
        "norm.bias": random(WIDTH),
    }
    for number in range(DEPTH):
        state |= block_state(f"blocks.{number}", WIDTH, qkv_bias)
    return state | ({"register_tokens": random(1, registers, WIDTH)} if registers else {})


def head_state() -> State:
    sizes = ((0, WIDTH, 40), (2, 40, 40), (4, 40, 16))
    layers = {f"head.mlp.{n}.weight": random(fan_out, fan_in) for n, fan_in, fan_out in sizes}
    layers |= {f"head.mlp.{n}.bias": random(fan_out) for n, _, fan_out in sizes}
    return layers | {
        "head.last_layer.weight_g": torch.ones(24, 1),
        "head.last_layer.weight_v": random(24, 16),
    }


def mae_state(use_bias: bool = True) -> State:
    width, voxels = DECODER_WIDTH, CHANNELS * PATCH**3
    state = vit_state(registers=0, qkv_bias=use_bias) | {
        "decoder_cls_token": random(1, 1, width),
        "decoder_pos_embed": sincos(width),
        "mask_token": random(1, 1, width),
        "decoder_embed.weight": random(width, WIDTH),
        "decoder_pred.weight": random(voxels, width),
        "decoder_norm.weight": 1 + random(width),
        "decoder_norm.bias": random(width),
    }
    if use_bias:
        state |= {"decoder_embed.bias": random(width), "decoder_pred.bias": random(voxels)}
    return state | block_state("decoder_blocks.0", width, use_bias)


def dino_checkpoint(student: State, teacher: State) -> dict[str, Any]:
    """As the reference's `save_checkpoint` writes it: DistributedDataParallel around MultiCropWrapper."""

    def wrapped(state: State) -> State:
        return {f"module.{'' if n.startswith('head.') else 'backbone.'}{n}": t for n, t in state.items()}

    return {
        "epoch": 7,
        "best_loss": np.float64(0.25),
        "state_dict": wrapped(student),
        "momentum_model_state_dict": wrapped(teacher),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "scheduler": {"last_epoch": 7, "base_lrs": [1e-4]},
    }


def blocks(x: Tensor, state: State, name: str, depth: int, heads: int) -> Tensor:
    def norm(x: Tensor, layer: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{layer}.weight"], state[f"{layer}.bias"], 1e-5)

    def linear(x: Tensor, layer: str) -> Tensor:
        return F.linear(x, state[f"{layer}.weight"], state.get(f"{layer}.bias"))

    batch, tokens, width = x.shape
    for number in range(depth):
        block = f"{name}.{number}"
        qkv = linear(norm(x, f"{block}.att_norm"), f"{block}.attn.qkv")
        q, k, v = qkv.reshape(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / (width // heads) ** 0.5, dim=-1)
        attended = (weights @ v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + linear(attended, f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"{block}.ffn_norm"), f"{block}.mlp.linear1"))
        x = x + linear(hidden, f"{block}.mlp.linear2")
    return x


def embed(images: Tensor, state: State) -> Tensor:
    name = "patch_embedding.patch_embeddings"
    x = F.conv3d(images, state[f"{name}.weight"], state[f"{name}.bias"], stride=PATCH)
    return x.flatten(2).transpose(1, 2) + state["patch_embedding.position_embeddings"]


def vit(images: Tensor, state: State) -> Tensor:
    """images (B, C, x, y, z) -> tokens (B, 1 + registers + N, width)."""
    x = embed(images, state)
    prefix = [state["cls_token"], *([state["register_tokens"]] if "register_tokens" in state else [])]
    x = torch.cat([*(token.expand(len(x), -1, -1) for token in prefix), x], dim=1)
    x = blocks(x, state, "blocks", DEPTH, HEADS)
    return F.layer_norm(x, (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)


def dino_head(cls: Tensor, state: State) -> Tensor:
    x = cls
    for number in (0, 2, 4):
        x = F.linear(x, state[f"head.mlp.{number}.weight"], state[f"head.mlp.{number}.bias"])
        x = F.gelu(x) if number < 4 else x
    v = state["head.last_layer.weight_v"]
    weight = state["head.last_layer.weight_g"] * v / v.norm(dim=1, keepdim=True)
    return F.normalize(x, dim=-1) @ weight.T


def mae(images: Tensor, state: State, keep: Tensor) -> Tensor:
    """images (B, C, x, y, z) and the visible patches of all, (n,) -> predictions (B, N, x · y · z · C)."""
    x = embed(images, state)[:, keep]
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1)
    x = blocks(x, state, "blocks", DEPTH, HEADS)
    x = F.layer_norm(x, (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-5)
    x = F.linear(x, state["decoder_embed.weight"], state.get("decoder_embed.bias"))
    places = state["mask_token"].repeat(len(x), GRID**3, 1)
    places[:, keep] = x[:, 1:]
    positions = torch.cat([state["decoder_cls_token"], state["decoder_pos_embed"]], dim=1)
    x = torch.cat([x[:, :1], places], dim=1) + positions
    x = blocks(x, state, "decoder_blocks", 1, DECODER_HEADS)
    x = F.layer_norm(x, (DECODER_WIDTH,), state["decoder_norm.weight"], state["decoder_norm.bias"], 1e-5)
    return F.linear(x, state["decoder_pred.weight"], state.get("decoder_pred.bias"))[:, 1:]


def turn(images: Tensor) -> Tensor:
    """(B, C, x, y, z) to (B, C, z, y, x), and back."""
    return images.transpose(2, 4)


def turn_places(rows: Tensor) -> Tensor:
    return rows.unflatten(1, (GRID, GRID, GRID)).transpose(1, 3).flatten(1, 3)


def images(count: int = 2) -> Tensor:
    return torch.rand(count, CHANNELS, *(3 * [PATCH * GRID]), generator=RANDOM)


def convert(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["convert-weights", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def begun_with(encoder: Path, **objective: float) -> Student:
    """A training run's student at its first step, from converted weights."""
    values = {
        "data": {"path": "d", "view_size": PATCH * GRID},
        "model": load_encoder(encoder)[1].model,
        "objective": objective,
        "run": {"start_from": encoder},
    }
    config = TrainConfig.model_validate(values)
    return initial(config, require_start(config, encoder.parent / "run")).student


def assert_same(first: State, second: State) -> None:
    assert sorted(first) == sorted(second)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize(("registers", "qkv_bias"), [(4, True), (0, False)])
def test_our_encoder_gives_the_references_features(tmp_path: Path, registers: int, qkv_bias: bool) -> None:
    state = vit_state(registers, qkv_bias)
    torch.save({f"module.backbone.{name}": t for name, t in state.items()}, tmp_path / "model_weights.pth")
    convert(tmp_path / "model_weights.pth", "--out", tmp_path / "ours", "--heads", str(HEADS))
    encoder, info = load_encoder(tmp_path / "ours/encoder.safetensors")
    assert (info.model.register_tokens, info.model.qkv_bias, info.preprocess_digest) == (
        registers,
        qkv_bias,
        None,
    )
    view = info.view(np.full((40, 50, 45), 40, np.int16), (2, 1, 1))
    assert (view.shape, info.data.field) == ((1, 3, 12, 12, 12), "squeezed")
    assert info.origin.startswith("model_weights.pth, student, sha256 ")
    x = images()
    with torch.no_grad():
        ours, theirs = encoder(turn(x)), vit(x, state)
    torch.testing.assert_close(ours[:, : 1 + registers], theirs[:, : 1 + registers], atol=1e-5, rtol=0)
    patches = turn_places(theirs[:, 1 + registers :])
    torch.testing.assert_close(ours[:, 1 + registers :], patches, atol=1e-5, rtol=0)


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_dino_checkpoint_survives_the_round_trip_bit_for_bit(tmp_path: Path, network: str) -> None:
    states = {"student": vit_state() | head_state(), "teacher": vit_state() | head_state()}
    torch.save(dino_checkpoint(states["student"], states["teacher"]), tmp_path / "dino.pt")
    convert(tmp_path / "dino.pt", "--out", tmp_path / "ours", "--network", network, "--heads", HEADS)
    convert(tmp_path / "ours/encoder.safetensors", "--out", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)["state_dict"]
    original = dino_checkpoint(states[network], {})["state_dict"]
    assert_same(back, original)

    student = begun_with(tmp_path / "ours/encoder.safetensors", mae_weight=0)
    x = images()
    with torch.no_grad():
        ours = student.get_submodule("head")(student.encoder(turn(x))[:, 0])
        theirs = dino_head(vit(x, states[network])[:, 0], states[network])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("use_bias", [True, False])
def test_an_mae_checkpoint_reconstructs_the_same_and_survives_the_round_trip(
    tmp_path: Path, use_bias: bool
) -> None:
    state = mae_state(use_bias)
    document: dict[str, Any] = {"epoch": 1, "state_dict": {f"module.{n}": t for n, t in state.items()}}
    torch.save({**document, "momentum_model_state_dict": None}, tmp_path / "mae.pt")
    arguments = ["--heads", HEADS, "--decoder-heads", DECODER_HEADS]
    convert(tmp_path / "mae.pt", "--out", tmp_path / "ours", *arguments)
    convert(tmp_path / "ours/encoder.safetensors", "--out", tmp_path / "back.pt")
    assert_same(torch.load(tmp_path / "back.pt", weights_only=True)["state_dict"], document["state_dict"])

    student = begun_with(tmp_path / "ours/encoder.safetensors", dino_weight=0)
    x, visible = images(), torch.tensor([0, 4, 5, 11, 20, 26])
    place = turn_places(torch.arange(GRID**3)[None, :, None])[0, :, 0]  # ours -> theirs, its own inverse
    with torch.no_grad():
        theirs = turn_places(mae(x, state, visible))
        keep = place[visible].expand(2, -1)
        ours = student.get_submodule("decoder")(student.encoder(turn(x), keep), keep)
    theirs = theirs.unflatten(2, (PATCH, PATCH, PATCH, CHANNELS)).permute(0, 1, 5, 4, 3, 2).flatten(2)
    # The reference's MAE has its last norm at eps 1e-5; its ViT, which then loads these weights, at 1e-6.
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_an_encoder_trained_here_exports_to_the_reference(tmp_path: Path) -> None:
    model = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "patch_size": PATCH}
    settings = TrainConfig.model_validate({"data": {"path": "d", "view_size": PATCH * GRID}, "model": model})
    student = Student(settings)
    data = DataFacts.model_construct(
        spacing_mm=(1, 1, 1), preprocess_digest="a" * 64, dataset_digest="b" * 64
    )
    export_encoder(tmp_path, student.state_dict(), settings, data, 10)
    convert(tmp_path / "encoder.safetensors", "--out", tmp_path / "theirs.pt")
    saved = torch.load(tmp_path / "theirs.pt", weights_only=True)["state_dict"]
    state = {name.replace("module.", "").replace("backbone.", ""): t for name, t in saved.items()}
    assert torch.equal(state["patch_embedding.position_embeddings"], sincos(WIDTH))
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(student.encoder(turn(x))[:, 0], vit(x, state)[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("data", "model", "key"),
    [
        ({}, {"positions": "rope"}, "model.positions"),
        ({"view_size": (PATCH, 2 * PATCH, PATCH)}, {}, "data.view_size"),
        ({}, {"patch_size": (PATCH, PATCH, 2)}, "model.patch_size"),
    ],
)
def test_an_encoder_that_the_reference_cannot_represent_is_refused(
    tmp_path: Path, data: dict[str, object], model: dict[str, object], key: str
) -> None:
    model = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "patch_size": PATCH, **model}
    settings = TrainConfig.model_validate(
        {"data": {"path": "d", "view_size": PATCH * GRID, **data}, "model": model}
    )
    facts = DataFacts.model_construct(
        spacing_mm=(1, 1, 1), preprocess_digest="a" * 64, dataset_digest="b" * 64
    )
    export_encoder(tmp_path, Student(settings).state_dict(), settings, facts, 10)
    with pytest.raises(FmctError, match=key):
        convert_weights(tmp_path / "encoder.safetensors", tmp_path / "theirs.pt")
    assert not (tmp_path / "theirs.pt").exists()


def foreign(change: str) -> State:
    state = vit_state() | head_state()
    if change == "lora":
        state["blocks.0.attn.lora_q.lora_matrix_A"] = random(4, 4)
    elif change == "rmsnorm":
        del state["blocks.1.att_norm.bias"]
    elif change == "last layer":
        state["head.last_layer.weight_g"] = torch.full((24, 1), 2.0)
    elif change == "two dimensions":
        state["patch_embedding.patch_embeddings.weight"] = random(WIDTH, CHANNELS, PATCH, PATCH)
    elif change == "channels":
        state["patch_embedding.patch_embeddings.weight"] = random(WIDTH, 2, PATCH, PATCH, PATCH)
    elif change == "shape":
        state["blocks.1.mlp.linear2.bias"] = random(WIDTH - 1)
    elif change == "registers":
        state["register_tokens"] = random(4, WIDTH)
    elif change == "another model":
        state = {"conv1.weight": random(3, 3)}
    return state


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("lora", "blocks.0.attn.lora_q.lora_matrix_A: unknown"),
        ("rmsnorm", "blocks.1.att_norm.bias: missing"),
        ("last layer", "head.last_layer.weight_g: missing or not 1"),
        ("two dimensions", "patch_embedding.patch_embeddings.weight: missing or not of 5 dimensions"),
        ("channels", "2 channels"),
        ("shape", "blocks.1.mlp.2.bias has shape (47,), but the other weights imply (48,)"),
        ("registers", "register_tokens: missing or not of 3 dimensions"),
        ("another model", "patch_embedding.patch_embeddings.weight: missing"),
    ],
)
def test_a_foreign_checkpoint_is_refused_in_one_line_that_names_the_weight(
    tmp_path: Path, change: str, expected: str
) -> None:
    torch.save(foreign(change), tmp_path / "foreign.pt")
    with pytest.raises(FmctError) as caught:
        convert_weights(tmp_path / "foreign.pt", tmp_path / "ours", heads=HEADS)
    assert str(caught.value).startswith(f"{tmp_path / 'foreign.pt'}: {expected}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ours").exists()


def test_files_that_are_not_checkpoints_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("weights")
    torch.save({"state_dict": vit_state()}, tmp_path / "mae.pt")
    torch.save({"state_dict": vit_state(), "code": Path("x")}, tmp_path / "code.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    cases: list[tuple[str, Literal["student", "teacher"], str]] = [
        ("absent.pt", "student", "no such file"),
        ("text.pt", "student", "not a checkpoint of torch.save"),
        ("code.pt", "student", "not a checkpoint of torch.save"),
        ("list.pt", "student", "neither a state dictionary"),
        ("mae.pt", "teacher", "has no momentum_model_state_dict"),
    ]
    for name, network, expected in cases:
        with pytest.raises(FmctError, match=expected) as caught:
            convert_weights(tmp_path / name, tmp_path / "ours", network)
        assert name in str(caught.value)
    converted = from_reference(vit_state(), HEADS)
    scaled = converted._replace(model=converted.model.model_copy(update={"layer_scale": 0.1}))
    with pytest.raises(FmctError, match=r"model\.layer_scale"):
        to_reference(scaled)
    with pytest.raises(FmctError, match="7 heads do not divide a width of 48"):
        from_reference(vit_state(), heads=7)
