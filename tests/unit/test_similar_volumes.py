"""One head is distinguished from others after any change of its pixels."""

from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from synthetic_scan import points_of, stack_of, stored

from preprocess.demo.anatomy import head_hu
from preprocess.demo.head import draw_anatomy
from preprocess.demo.lesions import Bleed, draw_lesion
from preprocess.demo.scanners import SCANNERS, Kernel
from preprocess.demo.streams import Stream, generator
from preprocess.qc import sketches
from preprocess.qc.similar import BLOCK, SIMILAR, similar_pairs, sketch

HEADS = 16
SLICES = stack_of(np.arange(-30.0, 103.0, 5.0))
"""Lower parts do not affect a sketch."""


@cache
def clean(number: int, bleeds: bool = False) -> np.ndarray:
    """HU of a head without noise, at its pose in the scanner."""
    pose = generator(5, Stream.POSE, number)
    rotation, origin = (tuple(pose.normal(0, sd, 3).tolist()) for sd in (4, 3))
    lesions = (draw_lesion(generator(5, Stream.LESION, number), Bleed.SUBDURAL),) if bleeds else ()
    placed = replace(draw_anatomy(5, number), rotation=rotation, origin=origin, lesions=lesions)
    return head_hu(points_of(SLICES), placed)


def scanned(hu: np.ndarray, kernel: Kernel = SCANNERS[0].soft, seed: int = 1) -> np.ndarray:
    """int16 HU with a kernel's noise."""
    rng = np.random.default_rng(seed)
    return np.asarray(np.rint(kernel.apply(hu, rng)), np.int16)


def sketch_of(hu: np.ndarray, cut: int = 0) -> np.ndarray:
    """The sketch of a scan without its `cut` outermost pixels and its lowest slice."""
    slices = replace(
        SLICES,
        positions=SLICES.positions[bool(cut) :] + cut * 2.0 * (SLICES.column_step + SLICES.row_step),
        heights=SLICES.heights[bool(cut) :],
        matrix=(SLICES.matrix[0] - 2 * cut, SLICES.matrix[1] - 2 * cut),
    )
    inner = hu[bool(cut) :, cut : len(hu[0]) - cut, cut : len(hu[0]) - cut]
    return sketch(stored(inner, slices)[1], (2.0, 2.0, 2.0))


def test_different_heads_are_not_similar() -> None:
    sketches = np.stack([sketch_of(scanned(clean(number))) for number in range(HEADS)])
    products = sketches @ sketches.T
    assert products == pytest.approx(products.T, abs=1e-5)
    assert np.diag(products) == pytest.approx(1, abs=1e-5)
    assert (products - np.eye(HEADS)).max() < SIMILAR - 0.03


@pytest.mark.parametrize("number", range(3))
def test_one_head_stays_similar_after_any_change_of_its_pixels(number: int) -> None:
    hu = scanned(clean(number))
    other = {
        "noise": scanned(clean(number), seed=2),
        "more noise": scanned(clean(number), replace(SCANNERS[0].soft, noise_hu=8.0), seed=3),
        "another kernel": scanned(clean(number), replace(SCANNERS[0].bone, noise_hu=12.0), seed=4),
        "2 HU more": hu + 2,
        "2 HU less": hu - 2,
        "rounded": hu // 5 * 5 + 2,
        "a window": np.clip(hu, -1000, 300),
    }
    first = sketch_of(hu)
    actual = {name: float(first @ sketch_of(one)) for name, one in other.items()}
    actual["a crop"] = float(first @ sketch_of(hu, cut=4))
    assert {name for name, correlation in actual.items() if correlation < SIMILAR} == set()


def test_pairs_have_different_patients_and_scans_in_every_block(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = rng.standard_normal((4500, 256), dtype=np.float32)
    made[4400], made[20], made[30] = made[7] + 0.1, made[10], made[11]
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    numbers = np.arange(len(made))
    numbers[20] = 10
    patients = [f"p{number}" for number in numbers]
    pairs = similar_pairs(made, numbers)[["row", "later"]].tolist()
    assert sorted(pairs) == [(7, 4400), (11, 30)]
    keys = [f"k{number:04d}" for number in range(len(made))]
    for name, part in (("a", range(20)), ("b", range(20, 4500))):
        sketches.write({keys[number]: made[number] for number in part}, tmp_path / name)
    digests = ["one" if number in (11, 30) else str(number) for number in range(len(made))]
    volumes = pa.table({"key": keys, "patient_key": patients, "source_digest": digests})
    paths = [tmp_path / name for name in ("a", "b", "absent")]
    assert [row["other_key"] for row in sketches.pairs_of(paths, volumes).to_pylist()] == ["k4400"]
    assert sketches.pairs_of([], volumes).num_rows == 0


def test_pairs_are_sorted_by_similarity_and_then_by_their_keys(tmp_path: Path) -> None:
    """As a loop over all pairs of rows gives them, for equal correlations too."""
    rng = np.random.default_rng(1)
    directions = rng.standard_normal((3, 256), dtype=np.float32)
    made = directions[rng.integers(3, size=40)] + 0.1 * rng.standard_normal((40, 256), dtype=np.float32)
    made[20:] = made[:20]
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    keys = [bytes(rng.bytes(4)).hex() for _ in made]
    patients = [f"p{number}" for number in rng.integers(12, size=40)]
    digests = [f"d{number}" for number in rng.integers(25, size=40)]
    sketches.write(dict(zip(keys, made, strict=True)), tmp_path / "all")
    order = rng.permutation(40)
    columns = {"key": keys, "patient_key": patients, "source_digest": digests}
    volumes = pa.table({name: [values[row] for row in order] for name, values in columns.items()})
    correlations = made[:BLOCK] @ made[:BLOCK].T
    expected = sorted(
        (-float(correlations[a, b]), *sorted((keys[a], keys[b])))
        for a, b in combinations(range(40), 2)
        if correlations[a, b] >= SIMILAR and patients[a] != patients[b] and digests[a] != digests[b]
    )
    rows = sketches.pairs_of([tmp_path / "all"], volumes).to_pylist()
    assert [(-row["correlation"], row["key"], row["other_key"]) for row in rows] == expected
    assert len(expected) > 100
