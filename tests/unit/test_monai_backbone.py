"""`fmct export-model --monai`: the encoder's maps in a trainable network, by self-contained code."""

import ast
from pathlib import Path

import pytest
import torch
from small_training import small_encoder, write_dataset

from fmct_hpc import load_encoder
from fmct_hpc.monai import fmct_monai
from fmct_hpc.monai.export import Maps, export_monai, load_module
from shards import Dataset, FmctError


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    return small_encoder(write_dataset(folder / "data", volumes=2), folder)


def test_a_network_on_the_exported_folder_learns(encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "backbone"
    assert "within" in export_monai(encoder, out)
    module = load_module(out)
    backbone = module.Backbone(out)
    model, info = load_encoder(encoder)
    dataset = Dataset.open(encoder.parent / "data")
    volumes = [dataset.read(number) for number in range(2)]
    expected = torch.cat([info.view(volume, dataset.info.spacing_mm) for volume in volumes])
    views = torch.stack([backbone.view(torch.from_numpy(volume)) for volume in volumes])
    torch.testing.assert_close(views, expected, atol=1e-6, rtol=0)
    with torch.no_grad():
        for actual, own in zip(backbone(views), Maps(model)(expected), strict=True):
            torch.testing.assert_close(actual, own, atol=1e-5, rtol=0)
    masks = torch.stack([backbone.view_of_mask(torch.from_numpy(volume > 55)) for volume in volumes])
    from monai.losses import DiceCELoss

    torch.manual_seed(0)
    net = module.Unetr(backbone, classes=1, features=4).train()
    before = {name: value.clone() for name, value in net.named_parameters()}
    optimizer, loss_of, losses = torch.optim.AdamW(net.parameters(), lr=1e-2), DiceCELoss(sigmoid=True), []
    for _ in range(6):
        loss = loss_of(net(views), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    changed = [name for name, value in net.named_parameters() if not torch.equal(value, before[name])]
    assert sum(name.startswith("backbone.") for name in changed) > 5
    assert losses[-1] < losses[0] - 0.1, losses


def test_the_code_of_the_folder_does_not_import_this_package() -> None:
    tree = ast.parse(Path(fmct_monai.__file__).read_text())
    named = [node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    named += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert {name.split(".")[0] for name in named} == {"json", "pathlib", "typing", "torch", "monai"}


def test_encoders_that_drop_patches_and_existing_folders_are_refused(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(FmctError, match="exists already"):
        export_monai(encoder, tmp_path)
    text = encoder.with_suffix(".json").read_text()
    some = tmp_path / "encoder.safetensors"
    some.write_bytes(encoder.read_bytes())
    some.with_suffix(".json").write_text(text.replace('"keep_tokens": 1.0', '"keep_tokens": 0.5'))
    with pytest.raises(FmctError, match="keep_tokens"):
        export_monai(some, tmp_path / "new")
    assert not (tmp_path / "new").exists()
