"""External encoders: inputs compared with MONAI's transforms, files with the shapes of their code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
import yaml
from documents import REPOSITORY, blocks
from peer_folders import dinov2, dinov3
from safetensors.torch import save_file
from torch import Tensor

from fmct_hpc.model.tunable import Tunable
from fmct_hpc.peers.ct_fm import CtFm, CtFmSettings, CtFmTokens
from fmct_hpc.peers.ct_fm import network_of as ct_fm_network
from fmct_hpc.peers.files import loaded
from fmct_hpc.peers.merlin import IGNORED, PREFIX, Merlin, MerlinTokens
from fmct_hpc.peers.merlin import network_of as merlin_network
from fmct_hpc.peers.peer import Settings
from fmct_hpc.peers.registry import PEERS
from fmct_hpc.peers.residual import ResidualTokens, bottlenecks
from fmct_hpc.probe.encoder_spec import EncoderSpec, PeerName
from fmct_hpc.probe.encoders import open_encoder
from fmct_hpc.probe.finetune import Rows, finetune, parameter_groups
from fmct_hpc.probe.methods.finetune import FinetuneConfig
from shards.errors import FmctError

SPACING = (1.25, 0.9, 1.1)
ct_fm: Any = CtFm
merlin: Any = Merlin
"""To mypy, `Encoder.field` is abstract in encoders without a grid."""


def head(shape: tuple[int, int, int] = (37, 46, 41)) -> np.ndarray:
    """HU with a bright, asymmetric body in air, (D, H, W)."""
    volume = np.full(shape, -1000, np.int16)
    inside = (slice(5, 31), slice(8, 43), slice(3, 30))
    values = np.random.default_rng(1).normal(40, 300, volume[inside].shape)
    volume[inside] = values.clip(-1200, 2500).astype(np.int16)
    return volume


def by_monai(volume: np.ndarray, *steps: tuple[str, dict[str, object]]) -> Tensor:
    """MONAI's transforms of these names and settings of the same voxels.

    As it reads files: axes (D, H, W) towards S, A, R; MONAI's affines lead to RAS.
    """
    from monai import transforms
    from monai.data import MetaTensor

    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *SPACING, 1
    affine[:3, 3] = (-17.5, 3.25, 40)
    read = MetaTensor(torch.from_numpy(volume.astype(np.float32))[None], affine=affine)
    made = [getattr(transforms, name)(**settings) for name, settings in steps]
    found: Tensor = transforms.Compose(made)(read).as_tensor()
    return found


def ct_fm_by_monai(volume: np.ndarray, spacing: tuple[float, ...], size: tuple[int, ...]) -> Tensor:
    """intrasample_simclr.yaml's deterministic transforms, then cq500.yaml's crop."""
    return by_monai(
        volume,
        ("Orientation", {"axcodes": "SPL"}),
        ("Spacing", {"pixdim": spacing, "mode": "bilinear"}),
        ("CropForeground", {}),
        ("SpatialPad", {"spatial_size": size, "value": -1024}),
        ("CenterSpatialCrop", {"roi_size": size}),
        ("ScaleIntensityRange", {"a_min": -1024, "a_max": 2048, "b_min": 0, "b_max": 1, "clip": True}),
    )


@pytest.mark.parametrize(
    ("spacing", "size"), [((3.0, 1.0, 1.0), (32, 16, 48)), ((1.25, 2.0, 0.7), (16, 32, 32))]
)
def test_ct_fm_gets_the_input_of_its_own_transforms(
    spacing: tuple[float, float, float], size: tuple[int, int, int]
) -> None:
    from monai.transforms import ScaleIntensityRange

    volume = head()
    settings = CtFmSettings(spacing_mm=spacing, size=size)
    peer = ct_fm(CtFmTokens(torch.nn.Linear(1, 1)), settings)
    seen = peer.transform(volume, SPACING)
    assert seen.shape == (1, *size)
    assert torch.allclose(seen, ct_fm_by_monai(volume, spacing, size), atol=1e-4)
    windows = settings.model_copy(update={"ranges_hu": ((0, 80), (-125, 175))})
    stacked = ct_fm(peer.module, windows).transform(volume, SPACING)
    blood = ScaleIntensityRange(a_min=0, a_max=80, b_min=0, b_max=1, clip=True)
    in_hu = ct_fm_by_monai(volume, spacing, size) * 3072 - 1024
    assert stacked.shape == (1, 2 * size[0], *size[1:])
    assert torch.allclose(stacked[:, : size[0]], blood(in_hu), atol=4e-3)  # computed via [0, 1], so 0.1 HU


def test_merlin_gets_the_input_of_its_own_transforms() -> None:
    volume = np.full((101, 45, 370), -1000, np.int16)  # wider than its field along one axis
    volume[20:80, 5:40, 20:350] = np.random.default_rng(2).normal(40, 400, (60, 35, 330))
    theirs = by_monai(
        volume,
        ("Orientation", {"axcodes": "RAS"}),
        ("Spacing", {"pixdim": (1.5, 1.5, 3), "mode": "bilinear"}),
        ("ScaleIntensityRange", {"a_min": -1000, "a_max": 1000, "b_min": 0.0, "b_max": 1.0, "clip": True}),
        ("SpatialPad", {"spatial_size": [224, 224, 160]}),
        ("CenterSpatialCrop", {"roi_size": [224, 224, 160]}),
    )
    seen = merlin(MerlinTokens(torch.nn.Linear(1, 1), 1), Settings()).transform(volume, SPACING)
    assert torch.allclose(seen.permute(0, 3, 2, 1), theirs, atol=1e-4)


def inflated_shapes(blocks: list[int]) -> dict[str, tuple[int, ...]]:
    """Shapes of Merlin's image encoder, as merlin/models/i3res.py inflates torchvision's ResNet."""

    def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        parts = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}

    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 3, 7, 7)} | norm("bn1", 64)
    before = 64
    for stage, count in enumerate(blocks):
        inner = 64 * 2**stage
        for number in range(count):
            name = f"layer{stage + 1}.{number}"
            shapes[f"{name}.conv1.weight"] = (inner, before, 1, 1, 1)
            shapes[f"{name}.conv2.weight"] = (inner, inner, 3, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * inner, inner, 1, 1, 1)
            for norm_number, channels in enumerate((inner, inner, 4 * inner), start=1):
                shapes |= norm(f"{name}.bn{norm_number}", channels)
            if number == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * inner, before, 1, 1, 1)
                shapes |= norm(f"{name}.downsample.1", 4 * inner)
            before = 4 * inner
    return shapes


def test_merlins_network_has_the_layout_of_its_published_checkpoint() -> None:
    with torch.device("meta"):
        network = merlin_network()
        tokens = MerlinTokens(network, 2048)(torch.empty(1, 1, 160, 224, 224))
    assert {name: tuple(t.shape) for name, t in network.state_dict().items()} == inflated_shapes(
        [3, 8, 36, 3]
    )
    assert tokens.shape == (1, 10 * 7 * 7, 2048)
    assert sum(p.numel() for p in network.parameters()) == 117_366_208


def test_ct_fms_network_has_the_size_of_its_published_file() -> None:
    with torch.device("meta"):
        network = ct_fm_network()
        tokens = CtFmTokens(network)(torch.empty(2, 1, 80, 224, 224))
    assert sum(t.numel() * 4 for t in network.state_dict().values()) == pytest.approx(311e6, abs=0.5e6)
    assert tokens.shape == (2, 5 * 14 * 14, 512)


def test_an_encoder_within_a_larger_checkpoint_is_found_and_a_wrong_one_named(tmp_path: Path) -> None:
    """The file as saved by StanfordMIMI/Merlin, for a network of one block per stage."""
    shapes, generator = inflated_shapes([1, 1, 1, 1]), torch.Generator().manual_seed(0)
    own = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    state = {f"{PREFIX}{name}": tensor for name, tensor in own.items()} | {
        f"{PREFIX}classifier.weight": torch.zeros(1692, 8, 1, 1, 1),
        "encode_text.linear_layer.bias": torch.zeros(512),
        "logit_scale": torch.ones([]),
    }
    file = tmp_path / "merlin.pt"

    def build() -> torch.nn.Module:
        return bottlenecks([1, 1, 1, 1], 3, (3, 7, 7), (1, 2, 2))

    def opened(state: dict[str, Tensor]) -> torch.nn.Module:
        torch.save(state, file)
        return loaded(build, file, PREFIX, IGNORED)

    for held in (state, own):  # the file of five-year prediction has the bare names
        network = opened(held)
        assert all(torch.equal(t, own[n]) for n, t in network.state_dict().items() if "tracked" not in n)
    views = torch.rand(2, 1, 16, 32, 24, generator=generator)
    tokens = MerlinTokens(network.eval(), 2048)(views)
    assert tokens.shape == (2, 1 * 1 * 1, 2048)
    assert not tokens.isnan().any()
    assert MerlinTokens(network, 2048).layer_of("network.layer3.0.conv1.weight") == 3

    conv = f"{PREFIX}layer2.0.conv1.weight"
    with pytest.raises(FmctError, match=rf"merlin.pt: no tensor {conv}; expected 128 x 256 x 1 x 1 x 1"):
        opened({name: tensor for name, tensor in state.items() if name != conv})
    with pytest.raises(FmctError, match=rf"{conv} is 128 x 256; expected 128 x 256 x 1 x 1 x 1"):
        opened(state | {conv: torch.zeros(128, 256)})
    with pytest.raises(FmctError, match=rf"unknown tensor {PREFIX}layer5.weight"):
        opened(state | {f"{PREFIX}layer5.weight": torch.zeros(1)})
    file.write_bytes(b"PK not a file of tensors")
    with pytest.raises(FmctError, match="tensors only"):
        loaded(build, file, PREFIX, IGNORED)
    torch.save({"a": object()}, file)  # would run code in the file
    with pytest.raises(FmctError, match="tensors only"):
        loaded(build, file, PREFIX, IGNORED)


@pytest.mark.parametrize(("make", "edge", "width"), [(dinov2, 28, 12), (dinov3, 32, 16)])
def test_a_2d_encoder_gets_slices_as_images(
    make: Callable[[Path], torch.nn.Module], edge: int, width: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = make(tmp_path)
    arguments = {"view_size": [6, edge, edge], "field_mm": 48}
    spec = EncoderSpec(name="d", peer="slices", weights=tmp_path, arguments=arguments)
    encoder, volume = open_encoder(spec), head((48, 48, 48))
    view = encoder.transform(volume, (1, 1, 1))
    assert view.shape == (3, 6, edge, edge)
    with torch.no_grad():
        tokens = encoder.tokens(torch.stack([view, view * 0.5]), [0])[0]
        assert tokens.shape == (2, 6, width)
        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        image = (view[:, 4] * 0.5 - mean) / std
        assert torch.allclose(tokens[1, 4], model(image[None]).last_hidden_state[0, 0], atol=1e-5)
    # a slice is 8 voxels; brain is the first channel; anterior is above, the patient's right on the left
    brain = np.clip(volume[16:24].astype(float) / 80, 0, 1).mean(axis=0)[::-1, ::-1]
    assert view[0, 2].mean().item() == pytest.approx(brain.mean(), abs=0.02)
    corner = view[0, 2, : edge // 2, : edge // 2].mean().item()
    assert corner == pytest.approx(brain[:24, :24].mean(), abs=0.02)
    assert isinstance(encoder.module, Tunable)
    layers = {encoder.module.layer_of(name) for name, _ in encoder.module.named_parameters()}
    assert layers == {0, 1, 2, 3}

    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"auto_map": {"AutoModel": "own.Model"}}))
    (tmp_path / "own.py").write_text("raise SystemExit('the code of a download was run')")
    assert open_encoder(spec).digest == encoder.digest
    drawn = [open_encoder(spec.model_copy(update={"untrained": seed})) for seed in (1, 1, 2)]
    assert drawn[0].digest == drawn[1].digest != drawn[2].digest != encoder.digest
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "patch_size": 14}))
    assert (
        spec.digest() != EncoderSpec(name="d", peer="slices", weights=tmp_path / "model.safetensors").digest()
    )
    with pytest.raises(FmctError, match=r"config.json: model_type 'clip'"):
        open_encoder(spec)


def test_a_slice_encoders_missing_weight_is_named(tmp_path: Path) -> None:
    model = dinov2(tmp_path)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    del state["layernorm.weight"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    spec = EncoderSpec(name="d", peer="slices", weights=tmp_path, arguments={"view_size": [2, 28, 28]})
    with pytest.raises(FmctError, match=r"missing tensor layernorm\.weight"):
        open_encoder(spec)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FmctError, match="transformers cannot load it"):
        open_encoder(spec)


def test_the_configuration_of_a_peer_is_validated_on_load() -> None:
    for wrong, message in (
        ({"peer": "ct-fm"}, "needs weights, or untrained"),
        ({"peer": "ct-fm", "untrained": 0, "arguments": {"sise": 1}}, "sise: Extra inputs"),
        ({"peer": "ct-fm", "untrained": 0, "arguments": {"size": [80, 200, 224]}}, "multiple of 16"),
        ({"peer": "merlin", "untrained": 0, "arguments": {"size": 1}}, "size: Extra inputs"),
        ({"peer": "resnet50", "untrained": 0, "function": "a:b"}, "one of peer and function"),
        ({"peer": "vgg", "untrained": 0}, "Input should be"),
    ):
        with pytest.raises(ValueError, match=message):
            EncoderSpec(name="x", **wrong)
    [block] = blocks(REPOSITORY / "docs/probes.md", "yaml", "Encoders of others")
    named = [EncoderSpec.model_validate(encoder) for encoder in yaml.safe_load(block)["encoders"]]
    assert {spec.peer for spec in named} == set(PEERS) == set(get_args(PeerName))
    untrained = EncoderSpec(name="x", peer="resnet50", untrained=3)
    assert untrained.pretraining_patients == frozenset()
    with pytest.raises(FmctError, match="not found; peer merlin requires"):
        open_encoder(EncoderSpec(name="x", peer="merlin", weights=Path("no/such.pt")))


def test_tokens_of_a_residual_network_average_to_its_pooled_features() -> None:
    from monai.networks.nets.resnet import resnet50

    with torch.device("meta"):
        theirs = resnet50(n_input_channels=3, feed_forward=False, shortcut_type="B", bias_downsample=False)
        ours = bottlenecks([3, 4, 6, 3], 3, (7, 7, 7), (2, 2, 2))
        tokens = ResidualTokens(ours, 2048)(torch.empty(1, 3, 96, 96, 96))
    assert {n: t.shape for n, t in ours.state_dict().items()} == {
        n: t.shape for n, t in theirs.state_dict().items()
    }
    assert tokens.shape == (1, 27, 2048)
    small = bottlenecks([1, 1, 1, 1], 1, (7, 7, 7), (2, 2, 2)).eval()
    views = torch.rand(1, 1, 64, 40, 40)
    with torch.no_grad():
        assert torch.allclose(ResidualTokens(small, 2048)(views).mean(dim=1), small(views), atol=1e-5)


def test_an_encoder_without_a_cls_token_is_fine_tuned() -> None:
    """A small residual network learns which volumes are bright; learning rates fall towards the stem."""
    config = FinetuneConfig(steps=6, batch=8, check_every=3, lr=3e-3, pool=("cls", "mean"), move=0, seed=1)
    module = ResidualTokens(bottlenecks([1, 1, 1, 1], 1, (7, 7, 7), (2, 2, 2)), 2048)
    labels = np.arange(24) % 2
    noise = torch.rand(24, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    views = noise * 0.2 + torch.from_numpy(labels * 0.6).float().reshape(-1, 1, 1, 1, 1)
    rows = Rows(np.arange(12), np.arange(12, 18), np.arange(18, 24))
    result = finetune(module, views, labels[:, None].astype(np.float32), rows, config)
    assert result.model.pool == ("mean",)
    scores = result.scores[:, 0]
    assert scores[labels[18:] == 1].min() > scores[labels[18:] == 0].max()
    rates = {
        cast("list[Tensor]", group["params"])[0]: group["lr"]
        for group in parameter_groups(result.model, config)
    }
    network = result.model.encoder.get_submodule("network")
    assert rates[network.get_parameter("conv1.weight")] == pytest.approx(3e-3 * 0.75**5)
    assert rates[network.get_parameter("layer4.0.conv1.weight")] == pytest.approx(3e-3 * 0.75)
    assert rates[result.model.head.weight] == 3e-3
    with pytest.raises(FmctError, match="no CLS token"):
        finetune(module, views, labels[:, None] * 1.0, rows, config.model_copy(update={"pool": ("cls",)}))
