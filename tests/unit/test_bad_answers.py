"""Invalid labels, masks, classifiers and weights on the command line: one line names file, row or key."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from shard_samples import make_key, make_record
from small_sweep import AFFINE, bright_sweep
from typer.testing import CliRunner

from fmct_hpc.classifier.fit import fit
from fmct_hpc.classifier.folder import write_classifier
from launch.cli import app
from shards import Dataset, ShardWriter, finish_dataset
from shards.errors import FmctError
from shards.info import preprocessing_digest
from shards.masks import MaskInfo


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep, a classifier of it, invalid labels, and files that do not belong to it."""
    folder = tmp_path_factory.mktemp("bad")
    sweep = bright_sweep(folder)
    write_classifier(fit(sweep, method="logistic"), folder / "kept")
    settings = sweep.model_dump(mode="json", exclude_unset=True) | {"methods": ["logistic"]}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(settings))
    table = pq.read_table(folder / "labels.parquet")
    bright = table["bright"].to_pylist()
    columns = {
        "half": [0, 1, 1.5, *bright[3:]],
        "died": bright,
        "days": [4.0, 3.0, 2.0, -1.0, *[5.0] * 56],
        "one": [3] * 60,
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, folder / "wrong.parquet")
    _masks_of_another_grid(folder)
    bright_sweep(folder / "other", seed=1)
    torch.save({"conv1.weight": torch.zeros(3)}, folder / "resnet.pt")
    (folder / "swapped").mkdir()
    for file in (folder / "kept").iterdir():
        (folder / "swapped" / file.name).write_bytes(file.read_bytes())
    weights = folder / "other" / "ours" / "encoder.safetensors"
    (folder / "swapped" / "encoder.safetensors").write_bytes(weights.read_bytes())
    return folder


def _masks_of_another_grid(folder: Path) -> None:
    document = MaskInfo(classes=("bright",), resampling="none", volumes_digest="a" * 64).document()
    voxels = Dataset.open(folder / "data").read(0) * 0 + 1
    with ShardWriter(folder / "masks", "shard-00000", "zarr") as writer:
        for number in range(12):
            moved = (*AFFINE[:3], 90.0 + 5 * (number == 7), *AFFINE[4:])
            keys = {"study_key": make_key(number), "patient_key": make_key(number)}
            digest = preprocessing_digest(document)
            record = make_record(
                voxels, make_key(number), **keys, config_digest=digest, spacing_mm=(12.0,) * 3, affine=moved
            )
            writer.add(record, voxels)
    finish_dataset(folder / "masks", "zarr", ["shard-00000"], document)


SWEEP = ["sweep", "sweep.yaml", "--out", "out"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([*SWEEP, "labels=wrong.parquet", "tasks=[half]"], ["wrong.parquet row 3", "column half"]),
        (
            [*SWEEP, "labels=wrong.parquet", "tasks=[half]", "kinds={half: ordinal}"],
            ["wrong.parquet row 3", "column half"],
        ),
        (
            [*SWEEP, "labels=wrong.parquet", "tasks=[died]", "kinds={died: {survival: days}}"],
            ["wrong.parquet row 4", "column days"],
        ),
        (
            [*SWEEP, "labels=wrong.parquet", "tasks=[one]", "kinds={one: multiclass}"],
            ["wrong.parquet", "column one"],
        ),
        (
            [*SWEEP, "encoders=[{name: peer, peer: resnet50, weights: resnet.pt}]"],
            ["resnet.pt", "conv1.weight is 3; expected"],
        ),
        (["segment", "segment.yaml", "--out", "segments"], ["masks", f"affine of mask {make_key(7)}"]),
        (["predict", "data", "--classifier", "swapped", "--out", "p"], ["swapped/encoder.safetensors"]),
        (
            [
                *("robustness", "sweep.yaml", "--out", "robust", "--classifier", "kept"),
                *("encoders=[{name: ours, weights: other/ours}]", "changes.thicker=[16]"),
            ],
            ["kept: a classifier of another encoder ours"],
        ),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(
    place: Path, words: list[str], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    segment = {
        "data": "data",
        "masks": "masks",
        "features": "f",
        "encoders": [{"name": "a", "weights": "ours"}],
    }
    Path("segment.yaml").write_text(yaml.safe_dump(segment | {"allow_unknown_pretraining": True}))
    with pytest.raises(FmctError) as refused:
        CliRunner().invoke(app, words, catch_exceptions=False)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    assert all(name in message for name in names), message
