"""Dense evaluation: figures against MONAI and plain loops, and heads on tokens that contain the answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from shard_samples import make_key, make_record
from small_training import small_encoder

from fmct_hpc.dense.config import SegmentConfig
from fmct_hpc.dense.field import Cells
from fmct_hpc.dense.figures import FIGURES, draws
from fmct_hpc.dense.picture import Example
from fmct_hpc.dense.reasons import Reason
from fmct_hpc.dense.run import Segmentation, Summary
from fmct_hpc.dense.surface import agreement
from fmct_hpc.probe.encoders import Encoder
from shards import Dataset, ShardWriter, finish_dataset
from shards.errors import FmctError
from shards.info import preprocessing_digest
from shards.listed import progress
from shards.masks import MaskInfo, packed
from shards.progress import Progress
from shards.share import Share

SPACING = (2.0, 1.5, 1.0)


def blob(seed: int, shape: tuple[int, int, int] = (17, 20, 23)) -> NDArray[np.bool_]:
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    centre, radii = generator.uniform(-0.4, 0.4, (3, 1, 1, 1)), generator.uniform(0.3, 0.7, (3, 1, 1, 1))
    return (((grid - centre) / radii) ** 2).sum(axis=0) + generator.normal(0, 0.1, shape) < 1


@pytest.mark.parametrize("seed", range(4))
def test_overlap_and_surface_distances_equal_monais(seed: int) -> None:
    from monai import metrics

    truth, predicted = blob(seed), blob(seed + 50)
    result = agreement(truth, predicted, SPACING, 2.0)
    y, y_pred = (torch.from_numpy(mask)[None, None].float() for mask in (truth, predicted))
    both = {"y_pred": y_pred, "y": y, "include_background": True, "spacing": SPACING}
    assert result.dice == pytest.approx(float(metrics.compute_dice(y_pred, y)), abs=1e-6)
    for ours, theirs in (
        (result.hd95_mm, metrics.compute_hausdorff_distance(**both, percentile=95)),
        (result.assd_mm, metrics.compute_average_surface_distance(**both, symmetric=True)),
        (result.nsd, metrics.compute_surface_dice(**both, class_thresholds=[2.0])),
    ):
        assert ours == pytest.approx(float(theirs), rel=1e-5)
    assert result.truth_ml == pytest.approx(truth.sum() * 3e-3)


def test_figures_of_empty_masks_are_defined() -> None:
    mask, nothing = blob(1), np.zeros((17, 20, 23), np.bool_)
    silent = agreement(mask, nothing, SPACING, 2.0)
    diagonal = np.linalg.norm(np.multiply(mask.shape, SPACING))
    assert silent[:4] == pytest.approx((0, diagonal, diagonal, 0))
    alarm = agreement(nothing, mask, SPACING, 2.0)
    assert np.isnan(alarm[:4]).all()
    assert (alarm.truth_ml, alarm.predicted_ml > 0) == (0, True)
    assert np.isnan(agreement(nothing, nothing, SPACING, 2.0)[:4]).all()


def test_cells_hold_the_masks_volume_and_interpolate_like_torch() -> None:
    shape, count = (12, 15, 10), (4, 5, 3)
    mask = np.random.default_rng(0).random((2, *shape)) < 0.3
    whole = Cells(np.zeros(3), np.array(shape, float), count, shape)
    shares = whole.shares(mask)
    direct = F.avg_pool3d(torch.from_numpy(mask[:, :, :, :9]).float(), (3, 3, 3))
    of_part = Cells(np.zeros(3), np.array([12.0, 15, 9]), (4, 5, 3), shape).shares(mask)
    np.testing.assert_allclose(of_part, direct, atol=1e-6)
    np.testing.assert_allclose(shares.mean(axis=(1, 2, 3)), mask.mean(axis=(1, 2, 3)), atol=1e-6)
    expected = F.interpolate(torch.from_numpy(shares)[None], shape, mode="trilinear")[0]
    np.testing.assert_allclose(whole.probabilities(shares), expected, atol=1e-5)
    beyond = Cells(np.array([-4.0, 3.0, 2.0]), np.array([20.0, 6.0, 30.0]), count, shape)
    outside = beyond.probabilities(np.ones((1, *count), np.float32))[0]
    assert outside[:, 3:9, 2:].all()
    assert not outside[:, :3].any()
    assert not outside[..., :2].any()


def test_intervals_equal_a_plain_loop_over_patients() -> None:
    generator = np.random.default_rng(3)
    patients = np.array(["a", "a", "b", "c", "c", "c", "d"])
    rows = [
        {
            **dict.fromkeys(("hd95_mm", "assd_mm", "nsd"), 1.0 if truth else np.nan),
            "dice": generator.random() if truth else np.nan,
            "truth_ml": float(truth),
            "predicted_ml": float(generator.integers(0, 2)),
        }
        for truth in (1, 1, 0, 1, 0, 1, 1)
    ]
    actual = draws(rows, patients, resamples=40)
    assert set(actual) == set(FIGURES)
    numbers = np.random.Generator(np.random.Philox(key=0)).integers(0, 4, (40, 4), dtype=np.int32)
    names = np.unique(patients)
    for draw, resampled in zip(numbers, actual["dice"].resampled, strict=True):
        dice = [row["dice"] for one in draw for row, p in zip(rows, patients, strict=True) if p == names[one]]
        known = [value for value in dice if not np.isnan(value)]
        assert resampled == pytest.approx(np.mean(known)) if known else np.isnan(resampled)
    assert actual["false_alarms"].value == np.mean([rows[2]["predicted_ml"] > 0, rows[4]["predicted_ml"] > 0])


CELLS, GRID = 2, (3, 3, 3)
EDGE = 12
"""Voxels of a volume, of which a cell has 2³."""


class Oracle(Encoder):
    """Its tokens are a volume's cells, scaled: the share of HU above 50."""

    grid = GRID

    def __init__(self) -> None:
        self.module = torch.nn.Identity()
        self.digest = "0" * 64

    def transform(self, volume: NDArray[np.int16], spacing_mm: object) -> torch.Tensor:
        bright = torch.from_numpy(volume > 50).float()[None]
        cells = F.avg_pool3d(bright, EDGE // (GRID[0] * CELLS))[0]
        d, c = GRID[0], CELLS
        patches = cells.reshape(d, c, d, c, d, c).permute(0, 2, 4, 1, 3, 5).reshape(d**3, c**3)
        return torch.cat([patches.mean(dim=0, keepdim=True), patches])

    def field(
        self, volume: NDArray[np.int16], spacing_mm: object
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.zeros(3), np.full(3, float(EDGE))


def oracle() -> Oracle:
    return Oracle()


def write_bright(folder: Path, volumes: int) -> SegmentConfig:
    """Volumes with bright boxes of whole cells, most of them, and masks of these."""
    names: dict[str, tuple[str, dict[str, Any] | None]] = {"data": (preprocessing_digest({}), None)}
    document = MaskInfo(classes=("bright", "never"), resampling="none", volumes_digest="a" * 64).document()
    names["masks"] = (preprocessing_digest(document), document)
    for name, (digest, _) in names.items():
        with ShardWriter(folder / name, "shard-00000", "zarr") as writer:
            for number in range(volumes):
                generator = np.random.default_rng(number)
                mask = np.zeros((EDGE, EDGE, EDGE), np.bool_)
                if number % 4:
                    low = generator.integers(0, 3, 3) * 2
                    mask[tuple(slice(a, a + 6) for a in low)] = True
                hu = np.where(mask, 70, 30).astype(np.int16)
                voxels = hu if name == "data" else packed(np.stack([mask, mask & False]))
                own = {"patient_key": make_key(number // 2), "source_digest": f"{number:063d}b"}
                record = make_record(voxels, make_key(number), config_digest=digest, **own)
                writer.add(record, voxels)
        finish_dataset(folder / name, "zarr", ["shard-00000"], names[name][1])
    return SegmentConfig.model_validate(
        {
            "data": folder / "data",
            "masks": folder / "masks",
            "features": folder / "features",
            "encoders": [
                {"name": "oracle", "function": "test_dense:oracle"},
                {"name": "other", "weights": small_encoder(folder / "data", folder / "encoder")},
            ],
            "cells": CELLS,
            "split": {"test": 0.4, "validation": 0.2},
            "steps": 120,
            "learning_rates": [0.03],
            "hidden": 16,
            "bootstrap": 50,
            "allow_unknown_pretraining": True,
        }
    )


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SegmentConfig]:
    folder = tmp_path_factory.mktemp("segmented")
    config = write_bright(folder, 32)
    Segmentation(config, folder / "out").run()
    return folder / "out", config


def test_heads_segment_what_tokens_encode_and_nothing_else(segmented: tuple[Path, SegmentConfig]) -> None:
    out, _ = segmented
    rows = pq.read_table(out / "results.parquet").to_pylist()
    by_cell = {(r["encoder"], r["head"], r["class"]): r for r in rows}
    assert len(rows) == len(by_cell) == 2 * 2 * 2
    best = by_cell["oracle", "linear", "bright"]
    assert best["dice"] >= 0.9 * best["dice_ceiling"]
    assert best["dice_low"] <= best["dice"] <= best["dice_high"]
    assert best["hd95_mm"] <= 2
    assert best["n"] > best["n_with"] > 4
    assert best["false_alarms"] == 0
    for head in ("linear", "convolution"):
        assert by_cell["oracle", head, "bright"]["dice"] > by_cell["other", head, "bright"]["dice"]
        assert by_cell["oracle", head, "never"]["reason_code"] == Reason.NO_TRAINING
    compared = pq.read_table(out / "comparisons.parquet").to_pylist()
    gain = next(row for row in compared if (row["head"], row["class"]) == ("linear", "bright"))
    assert (gain["encoder"], gain["versus"]) == ("oracle", "other")
    assert gain["dice_difference"] == pytest.approx(
        best["dice"] - by_cell["other", "linear", "bright"]["dice"]
    )
    assert gain["dice_difference_low"] > 0
    assert gain["n_with"] == best["n_with"]


def test_figures_are_means_over_volumes_and_tested_patients_are_not_trained_on(
    segmented: tuple[Path, SegmentConfig],
) -> None:
    out, config = segmented
    volumes = pq.read_table(out / "volumes.parquet").to_pylist()
    own = [row for row in volumes if (row["encoder"], row["head"]) == ("oracle", "linear")]
    mean = np.mean([row["dice"] for row in own if row["truth_ml"] > 0])
    first = pq.read_table(out / "results.parquet").to_pylist()[0]
    assert first["dice"] == pytest.approx(mean)
    index = Dataset.open(config.data).index
    patient = dict(zip(index["key"].to_pylist(), index["patient_key"].to_pylist(), strict=True))
    cohort = Segmentation(config, out).cohort
    tested = {patient[row["key"]] for row in own}
    others = {patient[key] for key in cohort.keys[cohort.of("train")].tolist()}
    assert tested
    assert not tested & others
    summary = Summary.model_validate_json((out / "summary.json").read_bytes())
    examples = Example.unpacked((out / summary.examples[0].file).read_bytes())
    assert [(one.name, one.grey.shape, bool(one.truth.any())) for one in examples] == [
        ("bright", (12, 12), True)
    ]


def test_finished_units_are_kept_and_other_results_refused(segmented: tuple[Path, SegmentConfig]) -> None:
    out, config = segmented
    before = {path: path.stat().st_mtime_ns for path in (out / "units").iterdir()}
    tables = {name: (out / f"{name}.parquet").read_bytes() for name in ("results", "volumes", "comparisons")}
    again = config.model_copy(update={"bootstrap": 60})
    Segmentation(again, out).run()
    assert {path: path.stat().st_mtime_ns for path in (out / "units").iterdir()} == before
    Segmentation(config, out).run()
    assert {name: (out / f"{name}.parquet").read_bytes() for name in tables} == tables
    strict = config.model_copy(update={"allow_unknown_pretraining": False})
    with pytest.raises(FmctError, match="pretraining"):
        Segmentation(strict, out).run()
    with pytest.raises(FmctError, match="no class none"):
        _ = Segmentation(config.model_copy(update={"classes": ("none",)}), out).cohort
    swapped = config.model_copy(update={"masks": config.data})
    with pytest.raises(FmctError, match="not masks"):
        _ = Segmentation(swapped, out).cohort


def test_shares_of_an_array_give_the_results_of_one_run(
    segmented: tuple[Path, SegmentConfig], tmp_path: Path
) -> None:
    out, config = segmented
    unread = config.model_copy(update={"features": tmp_path / "none"})
    with pytest.raises(FmctError, match="--extract -1"):
        Segmentation(unread, tmp_path / "x").run_share(0, 3)
    parts = Segmentation(config, tmp_path / "out")
    parts.extract()
    assert [parts.run_share(number, 3) for number in range(3)] == [2, 1, 1]
    counted = [progress(tmp_path / "out", Share(number, 3)) for number in range(3)]
    assert counted == [Progress(2, 2), Progress(1, 1), Progress(1, 1)]
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "units").iterdir()}
    parts.run()
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "units").iterdir()} == before
    for name in ("results", "volumes", "comparisons"):
        assert (tmp_path / "out" / f"{name}.parquet").read_bytes() == (out / f"{name}.parquet").read_bytes()


def test_the_untrained_encoder_is_added() -> None:
    spec = {"name": "first", "weights": "runs/first"}
    config = SegmentConfig.model_validate({"data": "d", "masks": "m", "features": "f", "encoders": [spec]})
    assert [(one.name, one.untrained) for one in config.compared] == [("first", None), ("first-untrained", 0)]
