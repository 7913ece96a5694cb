"""`fmct export-model --monai`: the encoder's own maps, in a network that learns, without this package."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_training import small_encoder, write_dataset

from fmct_hpc import load_encoder
from fmct_hpc.monai.export import Maps, export_monai
from shards import Dataset, FmctError

ALONE = """
import sys
sys.modules.update(dict.fromkeys(("fmct_hpc", "shards", "preprocess", "launch")))
import torch
from fmct_monai import Backbone, Unetr
from monai.losses import DiceCELoss

torch.manual_seed(0)
backbone = Backbone(".")
net = Unetr(backbone, classes=1, features=4).train()
given = torch.load("given.pt")
hu, spheres = given["hu"], given["masks"]
views = torch.stack([backbone.view(one) for one in hu])
masks = torch.stack([backbone.view_of_mask(one) for one in spheres])
assert torch.allclose(views, given["views"], atol=1e-6), (views - given["views"]).abs().max()
for found, expected in zip(backbone(views), given["maps"], strict=True):
    assert (found - expected).abs().max() <= 1e-5
before = {name: value.clone() for name, value in net.named_parameters()}
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
loss_of, losses = DiceCELoss(sigmoid=True), []
for step in range(6):
    loss = loss_of(net(views), masks)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
changed = [name for name, value in net.named_parameters() if not torch.equal(value, before[name])]
assert sum(name.startswith("backbone.") for name in changed) > 5
assert losses[-1] < losses[0] - 0.1, losses
"""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    return small_encoder(write_dataset(folder / "data", volumes=2), folder)


def test_a_network_on_the_exported_folder_learns_without_this_package(encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "backbone"
    assert "within" in export_monai(encoder, out)
    model, info = load_encoder(encoder)
    dataset = Dataset.open(encoder.parent / "data")
    volumes = [dataset.read(number) for number in range(2)]
    views = torch.cat([info.view(volume, dataset.info.spacing_mm) for volume in volumes])
    with torch.no_grad():
        maps = Maps(model)(views)
    hu = torch.stack([torch.from_numpy(volume) for volume in volumes])
    given = {"hu": hu, "masks": hu > 55, "views": views, "maps": list(maps)}
    torch.save(given, out / "given.pt")
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=out, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_an_encoder_of_some_patches_and_a_folder_that_is_there_are_refused(
    encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(FmctError, match="is there already"):
        export_monai(encoder, tmp_path)
    text = encoder.with_suffix(".json").read_text()
    some = tmp_path / "encoder.safetensors"
    some.write_bytes(encoder.read_bytes())
    some.with_suffix(".json").write_text(text.replace('"keep_tokens": 1.0', '"keep_tokens": 0.5'))
    with pytest.raises(FmctError, match="keep_tokens"):
        export_monai(some, tmp_path / "new")
    assert not (tmp_path / "new").exists()
