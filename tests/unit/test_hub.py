"""An exported folder computes the encoder's tokens by its own code, with and without transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from shard_samples import make_record
from test_export import head, written

from fmct_hpc import load_encoder
from fmct_hpc.hub.counts import counted
from fmct_hpc.hub.prepare import AXES_LPS, prepare, view
from fmct_hpc.hub.write import code, export_hub
from fmct_hpc.train.export import write_encoder
from shards import Dataset, ShardWriter, finish_dataset
from shards.errors import FmctError

SAVE = """
import re, sys
from pathlib import Path
import numpy as np, torch

given, number = Path(sys.argv[1]), int(sys.argv[2])
hu, affine = np.load(given / "hu.npy"), np.load(given / "affine.npy")
for folder in sorted(given.glob("hub-*")):
    block = re.findall("```python\\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[number]
    sys.path.insert(0, str(folder))
    with torch.no_grad():
        exec(block.replace("FOLDER", str(folder)))
    np.save(given / f"tokens-{number}-{folder.name}.npy", tokens.numpy())
    sys.path.pop(0)
    sys.modules.pop("fmct_encoder", None)
"""
"""The Python lines of each model card."""
ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fmct_hpc", "shards", "preprocess", "launch", "transformers", "pydantic"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
"""
MODELS: tuple[tuple[object, dict[str, object]], ...] = (
    (12, {"positions": "learned", "layer_scale": 0.1, "input_mean": (0.1, 0.2, 0.3), "input_std": 0.5}),
    (12, {"positions": "rope", "patch_size": 3, "keep_tokens": 0.7, "register_tokens": 0}),
    ((6, 12, 18), {"positions": "sincos", "qkv_bias": False, "heads": 4}),
)


def run(script: str, *arguments: object, **variables: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **variables},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three encoders and their folders, and a volume: sagittal, from right to left, of another spacing."""
    folder = tmp_path_factory.mktemp("exports")
    for number, (size, options) in enumerate(MODELS):
        source = written(folder / f"source-{number}", size, **options)
        export_hub(source, folder / f"hub-{number}", "CC-BY-4.0")
    hu = head((60, 100, 90), (3, 2, 2))
    hu[10:20, 40:60, 30:35] = 80
    np.save(folder / "canonical.npy", hu)
    np.save(folder / "hu.npy", hu.transpose(2, 0, 1)[:, ::-1])  # (W, -D, H)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[-2, 0, 0], [0, 0, -2], [0, -3, 0]])  # columns: right, inferior, anterior
    np.save(folder / "affine.npy", affine)
    return folder


def expected(exports: Path, number: int) -> torch.Tensor:
    encoder, info = load_encoder(exports / f"source-{number}/encoder.safetensors")
    with torch.no_grad():
        tokens: torch.Tensor = encoder(info.view(np.load(exports / "canonical.npy"), (3, 2, 2)))
    return tokens


def test_the_folder_computes_the_encoders_tokens_without_this_package(exports: Path) -> None:
    run(ALONE + SAVE, exports, 1)
    for number in range(len(MODELS)):
        actual = torch.from_numpy(np.load(exports / f"tokens-1-hub-{number}.npy"))
        torch.testing.assert_close(actual, expected(exports, number), atol=1e-5, rtol=0)


def test_transformers_computes_the_encoders_tokens(exports: Path, tmp_path: Path) -> None:
    run(SAVE, exports, 0, HF_HOME=str(tmp_path), HF_MODULES_CACHE=str(tmp_path / "modules"))
    for number in range(len(MODELS)):
        actual = torch.from_numpy(np.load(exports / f"tokens-0-hub-{number}.npy"))
        torch.testing.assert_close(actual, expected(exports, number), atol=1e-5, rtol=0)


def preprocessing(exports: Path, **changed: object) -> dict[str, object]:
    described = json.loads((exports / "hub-0/config.json").read_bytes())["fmct"]
    return {**described["preprocessing"], **changed}


def test_the_squeezed_field_equals_the_encoders(tmp_path: Path, exports: Path) -> None:
    info = load_encoder(exports / "source-0/encoder.safetensors")[1]
    data = info.data.model_copy(update={"field": "squeezed", "field_mm": 40.0})
    squeezed = info.model_copy(update={"data": data})
    given = preprocessing(exports, field="squeezed", field_mm=40.0)
    hu = np.load(exports / "canonical.npy")
    torch.testing.assert_close(view(hu, (3, 2, 2), given), squeezed.view(hu, (3, 2, 2)), atol=1e-6, rtol=0)


def test_frames_and_oblique_axes_give_the_same_head(exports: Path) -> None:
    """An oblique volume, sampled from the analytic head, gives about the input of the upright one."""
    given = preprocessing(exports)
    upright = prepare(np.load(exports / "hu.npy"), np.load(exports / "affine.npy"), given)
    ras = np.diag([-1.0, -1, 1, 1]) @ np.load(exports / "affine.npy")
    assert torch.equal(prepare(np.load(exports / "hu.npy"), ras, given, "RAS"), upright)

    axes = np.array(AXES_LPS).T
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    straight, oblique = (sampled_head(steps) for steps in (2 * np.eye(3), 2 * turn))
    affine = np.eye(4)
    affine[:3, :3] = axes @ (2 * turn)
    given = preprocessing(exports, view_size=[40, 40, 40])
    seen = view(straight, (2, 2, 2), given)
    off = (prepare(oblique, affine, given) - seen).abs().mean()
    assert off < 0.1 * (view(oblique, (2, 2, 2), given) - seen).abs().mean()


def sampled_head(steps: np.ndarray) -> np.ndarray:
    """An ellipsoid in air on a grid of these steps: its columns, mm superior, anterior and right."""
    shape = np.array([100, 120, 110])
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) - (shape - 1) / 2
    radius = np.linalg.norm(index @ steps.T / (60, 85, 65), axis=-1)
    return np.asarray(-1000 + 1040 / (1 + np.exp(12 * (radius - 1))))


@pytest.mark.parametrize(
    ("volume", "affine", "frame"),
    [
        (np.zeros((4, 4)), np.eye(4), "LPS"),
        (np.zeros((4, 4, 4)), np.eye(3), "LPS"),
        (np.zeros((4, 4, 4)), np.zeros((4, 4)), "LPS"),
        (np.zeros((4, 4, 4)), np.eye(4), "XYZ"),
        (np.full((4, 4, 4), np.nan), np.eye(4), "LPS"),
    ],
)
def test_an_invalid_volume_is_refused(
    exports: Path, volume: np.ndarray, affine: np.ndarray, frame: str
) -> None:
    with pytest.raises(FmctError):
        prepare(volume, affine, preprocessing(exports), frame)


def test_the_card_has_the_facts_and_the_given_licence(exports: Path) -> None:
    text = (exports / "hub-0/README.md").read_text()
    assert text.startswith("---\nlicense: CC-BY-4.0\n")
    for fact in ("no medical device", "b" * 64, "2 x 2 x 2 mm", "level 40, width 80 HU", "not available"):
        assert fact in text
    assert "secret" not in (exports / "hub-0/config.json").read_text()
    for licence in (None, "", "MIT\nlicense: other", "[x]"):
        with pytest.raises(FmctError, match="--licence"):
            export_hub(exports / "source-0", exports / "new", licence)


def test_only_an_earlier_export_of_the_same_encoder_is_replaced(exports: Path, tmp_path: Path) -> None:
    source, out = exports / "source-0", exports / "hub-0"
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    export_hub(source / "encoder.safetensors", out, "CC-BY-4.0")
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"fmct": {}}')
    for held in (foreign, exports / "hub-1"):
        with pytest.raises(FmctError, match="has files other than an export of this encoder"):
            export_hub(source, held, "CC-BY-4.0")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FmctError, match="has files other"):
        export_hub(source, out, "CC-BY-4.0")
    (out / "notes.txt").unlink()
    assert not list(exports.glob(".hub-*"))


def test_a_folder_that_deviates_is_not_published(
    exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmct_hpc.hub.write.TOLERANCE", -1.0)
    with pytest.raises(FmctError, match="not written"):
        export_hub(exports / "source-0", tmp_path / "out", "CC-BY-4.0")
    assert list(tmp_path.iterdir()) == []


def test_the_card_counts_volumes_only_of_the_training_dataset(exports: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "data", "shard-00000", "zarr") as writer:
        for number in range(3):
            voxels = np.full((4, 4, 4), number, np.int16)
            keys = {"study_key": f"{number:032x}", "patient_key": f"{number // 2:032x}"}
            writer.add(make_record(voxels, f"{number:032x}", **keys), voxels)
    info = finish_dataset(tmp_path / "data", "zarr", ["shard-00000"])
    assert counted(Dataset.open(tmp_path / "data")) == (3, 3, 2)
    with pytest.raises(FmctError, match="not the training dataset"):
        export_hub(exports / "source-0", tmp_path / "out", "MIT", tmp_path / "data")
    source = tmp_path / "source"
    encoder, described = load_encoder(exports / "source-0/encoder.safetensors")
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    write_encoder(source, weights, described.model_copy(update={"dataset_digest": info.digest}))
    export_hub(source, tmp_path / "out", "MIT", tmp_path / "data")
    assert "| Patients | 2 |" in (tmp_path / "out/README.md").read_text()


def test_the_code_is_one_module_without_undefined_names(tmp_path: Path) -> None:
    (tmp_path / "fmct_encoder.py").write_text(code())
    checked = ["ruff", "check", "--isolated", "--select", "F821,F811,E9", str(tmp_path)]
    result = subprocess.run([sys.executable, "-m", *checked], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout
    assert "fmct_hpc import" not in code()
