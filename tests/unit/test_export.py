"""The exported encoder and its preprocessing."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from onnxruntime import InferenceSession
from shard_samples import make_record

from fmct_hpc import load_encoder
from fmct_hpc.config import TrainConfig
from fmct_hpc.data.field import center_view
from fmct_hpc.inference.features import ScanFeatures
from fmct_hpc.inference.write import write_scan
from fmct_hpc.objective.student import Student
from fmct_hpc.probe.config import ProbeConfig
from fmct_hpc.probe.run import probe
from fmct_hpc.probe.store import FeatureRequest, write_part
from fmct_hpc.train.checkpoint import DataFacts
from fmct_hpc.train.convert import convert_weights
from fmct_hpc.train.export import EncoderInfo, export_encoder, write_encoder
from fmct_hpc.train.portable import export_model
from fmct_hpc.train.start import initial, require_start, untrained_encoder
from shards import ShardWriter, finish_dataset
from shards.errors import FmctError


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return written(tmp_path, layer_scale=0.1, positions="learned")


def written(folder: Path, view_size: object = 12, **options: object) -> Path:
    """The encoder.safetensors of a small model, as a run exports it."""
    model = {"width": 24, "depth": 1, "heads": 2, "patch_size": 6, **options}
    config = TrainConfig.model_validate(
        {
            "data": {"path": "/secret/place", "cache": "/secret/disk", "view_size": view_size},
            "model": model,
            "objective": {"dino_weight": 0},
        }
    )
    digests: dict[str, Any] = {"preprocess_digest": "a" * 64, "dataset_digest": "b" * 64}
    data = DataFacts.model_construct(spacing_mm=(2.0, 2.0, 2.0), **digests)
    export_encoder(folder, Student(config).state_dict(), config, data, 10)
    assert "secret" not in (folder / "encoder.json").read_text()
    return folder / "encoder.safetensors"


def head(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> np.ndarray:
    """A smooth head in air around the middle, at voxel centres: the same in mm at any spacing."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    d, h, w = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt((d / 60) ** 2 + (h / 80) ** 2 + ((w - 5) / 65) ** 2)
    return np.asarray(-1000 + 1040 / (1 + np.exp(12 * (radius - 1))))


def test_three_lines_from_a_volume_to_features(exported: Path) -> None:
    volume = head((80, 100, 90), (2, 2, 2)).astype(np.int16)
    encoder, info = load_encoder(exported)
    view = info.view(volume, (2, 2, 2))
    tokens = encoder(view)
    assert tokens.shape == (1, 1 + 4 + 8, 24)
    assert torch.equal(view[0], torch.from_numpy(center_view(volume, (2, 2, 2), info.data)))


def test_volumes_of_another_spacing_are_resampled_to_that_of_training(exported: Path) -> None:
    _, info = load_encoder(exported)
    expected = info.view(head((80, 100, 90), (2, 2, 2)), (2, 2, 2))
    finer = info.view(head((40, 200, 180), (4, 1, 1)), (4, 1, 1))
    assert (finer - expected).abs().mean() < 0.005
    assert (finer - expected).abs().max() < 0.1


@pytest.mark.parametrize(
    ("volume", "spacing", "expected"),
    [
        (np.zeros((4, 4)), (1, 1, 1), "expected HU"),
        (np.zeros((4, 4, 4)), (1, 1), "three spacings"),
        (np.zeros((4, 4, 4)), (1, 1, 0), "above 0 mm"),
        (np.full((4, 4, 4), np.nan), (1, 1, 1), "not finite"),
    ],
)
def test_an_invalid_volume_is_refused(
    exported: Path, volume: np.ndarray, spacing: tuple[float, ...], expected: str
) -> None:
    info = load_encoder(exported)[1]
    with pytest.raises(FmctError, match=expected):
        info.view(volume, spacing)


def test_an_encoder_with_a_missing_or_mismatched_description_is_refused(exported: Path) -> None:
    described = exported.with_suffix(".json")
    info = EncoderInfo.model_validate_json(described.read_bytes())
    wider = info.model_copy(update={"model": info.model.model_copy(update={"width": 48})})
    described.write_text(wider.model_dump_json())
    with pytest.raises(FmctError, match=r"not an encoder that matches encoder\.json"):
        load_encoder(exported)
    described.unlink()
    with pytest.raises(FmctError, match=r"encoder\.json: no such file"):
        load_encoder(exported)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("model", "depth", 10**9), ("model", "width", 24 * 10**6), ("data", "view_size", 60_000)],
)
def test_a_description_larger_than_the_weights_file_allocates_no_memory(
    exported: Path, section: str, name: str, value: int
) -> None:
    description = exported.with_suffix(".json")
    document = json.loads(description.read_bytes())
    document[section][name] = value
    description.write_text(json.dumps(document))
    with pytest.raises(FmctError, match=r"not an encoder that matches encoder\.json \(its size\)"):
        load_encoder(exported)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((12, 12, 12), {"layer_scale": 0.1, "positions": "learned"}),
        ((12, 12, 12), {"positions": "rope"}),
        ((4, 12, 8), {"positions": "rope", "patch_size": (2, 6, 4)}),
        ((12, 12, 12), {"positions": "rope", "patch_size": 3, "keep_tokens": 0.7}),
        ((12, 12, 12), {"positions": "learned", "patch_size": 3, "keep_tokens": 0.3}),
    ],
)
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_a_portable_model_computes_the_same_for_any_batch(
    tmp_path: Path, kind: str, size: tuple[int, int, int], options: dict[str, object]
) -> None:
    exported = written(tmp_path, size, **options)
    message = export_model(exported, tmp_path / f"model.{kind}")
    assert str((3, *size)) in message
    assert (tmp_path / "model.json").read_bytes() == exported.with_suffix(".json").read_bytes()
    views = torch.rand(5, 3, *size)
    views[:, :, :, : size[1] // 2] = 0  # air, whose patches hold equal tissue: none
    if kind == "pt2":
        tokens = torch.export.load(tmp_path / "model.pt2").module()(views)
    else:
        tokens = torch.from_numpy(
            InferenceSession(tmp_path / "model.onnx").run(None, {"views": views.numpy()})[0]
        )
    torch.testing.assert_close(tokens, load_encoder(exported)[0](views), atol=1e-5, rtol=0)


def test_a_portable_model_that_deviates_is_not_published(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmct_hpc.train.portable.TOLERANCE", -1.0)
    with pytest.raises(FmctError, match="tokens differ by"):
        export_model(exported, tmp_path / "out/model.pt2")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(FmctError, match=r"ends in \.pt2 or \.onnx"):
        export_model(exported, tmp_path / "model.tflite")


def test_a_run_starts_from_the_given_encoder(exported: Path, tmp_path: Path) -> None:
    given, info = load_encoder(exported)

    def settings(**model: object) -> TrainConfig:
        return TrainConfig.model_validate(
            {
                "data": {"path": "d", "view_size": 12},
                "model": {**info.model.model_dump(), **model},
                "objective": {"mae_weight": 0},
                "run": {"start_from": str(exported)},
            }
        )

    run = tmp_path / "run"
    begun = initial(settings(), require_start(settings(), run)).student.encoder.state_dict()
    assert all(torch.equal(begun[name], tensor) for name, tensor in given.state_dict().items())
    drawn = untrained_encoder(info, seed=0).state_dict()
    assert not torch.equal(drawn["embedding.weight"], begun["embedding.weight"])
    with pytest.raises(FmctError, match=r"has model\.positions=learned, not sincos"):
        require_start(settings(positions="sincos"), run)
    with pytest.raises(FmctError, match=r"has model\.positions=learned, not rope"):
        require_start(settings(positions="rope"), run)
    with pytest.raises(FmctError, match=r"has model\.heads=2, not 3"):
        require_start(settings(heads=3), run)
    with pytest.raises(FmctError, match=r"\(5, 24\), .*needs \(3, 24\)"):
        require_start(settings(register_tokens=2), run)


def test_an_encoder_without_a_run_is_probed(exported: Path, tmp_path: Path) -> None:
    studies = [f"{number:032x}" for number in range(16)]
    with ShardWriter(tmp_path / "data", "shard-00000", "zarr") as writer:
        for number, study in enumerate(studies):
            voxels = np.full((16, 16, 16), 30 + 30 * (number % 2), np.int16)
            voxels[number % 5] = -1000
            record = make_record(
                voxels, study, study_key=study, spacing_mm=(2.0, 2.0, 2.0), config_digest="a" * 64
            )
            writer.add(record, voxels)
    finish_dataset(tmp_path / "data", "zarr", ["shard-00000"])
    labels = pa.table({"study_key": studies, "bleed": [number % 2 for number in range(16)]})
    pq.write_table(labels, tmp_path / "labels.parquet")
    config = ProbeConfig(data=tmp_path / "data", labels=tmp_path / "labels.parquet", folds=3, bootstrap=20)
    result = probe(exported.parent, config, tmp_path / "out", lambda done, total: None)
    assert {(row.head, row.encoder) for row in result.rows} >= {
        ("logistic", "trained"),
        ("logistic", "untrained"),
    }
    assert result.pretrained_patients is None


def test_no_conversion_overwrites_its_input(exported: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for out in (exported, exported.with_suffix(".json")):
        with pytest.raises(FmctError, match=r"is the input .* which it would replace"):
            convert_weights(exported, out)
    with pytest.raises(FmctError, match="is a file"):
        convert_weights(tmp_path / "reference.pt", exported)
    portable = exported.rename(tmp_path / "encoder.pt2")
    with pytest.raises(FmctError, match="is the input"):
        export_model(portable, portable)
    portable.rename(exported)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_files_of_another_encoder_are_not_replaced(exported: Path, tmp_path: Path) -> None:
    encoder, info = load_encoder(exported)
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    write_encoder(tmp_path / "other", weights, info.model_copy(update={"dataset_digest": "c" * 64}))
    other = tmp_path / "other/encoder.safetensors"
    export_model(exported, tmp_path / "a.pt2")
    (tmp_path / "package.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for source, out, named in (
        (other, tmp_path / "a.pt2", "a"),
        (exported, tmp_path / "package.pt2", "package"),
    ):
        with pytest.raises(FmctError, match=rf"{named}\.json: exists and is of another encoder"):
            export_model(source, out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    export_model(exported, tmp_path / "a.pt2")


def test_a_full_disk_is_reported_whichever_library_writes(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    encoder, info = load_encoder(exported)
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    plain = info.model_copy(update={"model": info.model.model_copy(update={"layer_scale": None})})
    write_encoder(tmp_path / "plain", {n: t for n, t in weights.items() if "_scale" not in n}, plain)
    request = FeatureRequest.model_construct()
    cls, tokens, affine = (np.zeros(shape) for shape in (2, (3, 2), (3, 3)))
    scan = ScanFeatures("key", cls.astype(np.float32), tokens.astype(np.float32), affine, flags=None)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    for write in (
        lambda: convert_weights(tmp_path / "plain/encoder.safetensors", tmp_path / "new/reference.pt"),
        lambda: export_model(exported, tmp_path / "new/portable.pt2"),
        lambda: write_encoder(tmp_path / "new", weights, info),
        lambda: write_scan(scan, tmp_path / "new"),
        lambda: write_part(tmp_path / "new" / "part", request, {"cls": scan.cls}, 3),
    ):
        with pytest.raises(OSError, match="No space left on device"):
            write()
    assert not list((tmp_path / "new").iterdir())
