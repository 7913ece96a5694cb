"""The volumes that a run probes, and the areas of its two classifiers compared with scikit-learn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_samples import make_key
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from small_training import small_config, write_labelled

from fmct_hpc.probe.online import online_areas
from fmct_hpc.probe.online_cohort import OnlineCohort, online_cohort, probed
from shards import Dataset, FmctError

VOLUMES = 60


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_labelled(tmp_path_factory.mktemp("labelled"), VOLUMES)


def relabel(labels: Path, out: Path, **columns: Sequence[object]) -> Path:
    table = pq.read_table(labels)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, out)
    return out


def test_halves_are_by_patient_and_depend_on_keys_alone(written: tuple[Path, Path]) -> None:
    dataset = Dataset.open(written[0])
    whole = online_cohort(dataset, written[1], None, VOLUMES)
    assert whole.tasks == ("ball", "noise")
    assert len(whole.rows) == VOLUMES
    assert 0.25 < whole.halves.mean() < 0.75
    some = online_cohort(dataset, written[1], ["ball"], 50)
    assert len(some.rows) == 50
    halves = dict(zip(whole.patients.tolist(), whole.halves.tolist(), strict=True))
    assert [halves[key] for key in some.patients.tolist()] == some.halves.tolist()
    assert set(some.rows.tolist()) < set(whole.rows.tolist())


def test_patients_of_a_test_split_are_never_probed(written: tuple[Path, Path], tmp_path: Path) -> None:
    splits = ["test" if n % 6 == 0 else "ood" if n % 6 == 1 else "train" for n in range(VOLUMES)]
    labels = relabel(written[1], tmp_path / "labels.parquet", split=splits)
    cohort = online_cohort(Dataset.open(written[0]), labels, ["ball"], VOLUMES)
    assert sorted(cohort.rows.tolist()) == [n for n in range(VOLUMES) if n % 6 > 1]


def test_impossible_probes_are_refused_in_one_line(written: tuple[Path, Path], tmp_path: Path) -> None:
    dataset = Dataset.open(written[0])
    rare = [int(n < 4) for n in range(VOLUMES)]
    labels = relabel(written[1], tmp_path / "labels.parquet", rare=rare, **{"a b": rare})
    for names, key in (
        (["ball", "bleed"], "bleed"),
        (["a b"], "health.label"),
        (["rare"], "rare"),
        (None, "a b"),
    ):
        with pytest.raises(FmctError, match=key) as refusal:
            online_cohort(dataset, labels, names, VOLUMES)
        assert "\n" not in str(refusal.value)
    assert online_cohort(dataset, labels, ["ball", "noise"], VOLUMES).tasks == ("ball", "noise")
    other = pa.table({"study_key": [make_key(n) for n in range(9)], "ball": [0] * 9})
    pq.write_table(other, tmp_path / "others.parquet")
    with pytest.raises(FmctError, match="none of its studies"):
        online_cohort(dataset, tmp_path / "others.parquet", None, VOLUMES)


def test_another_dataset_of_the_same_preprocessing_can_be_probed(
    written: tuple[Path, Path], tmp_path: Path
) -> None:
    data, labels = write_labelled(tmp_path, 50)
    config = small_config(written[0], health={"labels": labels, "data": data, "label": ["ball"]})
    actual = probed(config, Dataset.open(written[0]))
    assert actual is not None
    assert actual[0].path == data
    assert len(actual[1].rows) == 50
    assert probed(small_config(written[0]), Dataset.open(written[0])) is None


@pytest.mark.parametrize(
    "health", [{"label": ["ball"]}, {"data": "elsewhere"}, {"labels": "labels.parquet", "every": 0}]
)
def test_an_incomplete_online_probe_is_refused(health: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"health\.labels"):
        small_config(Path("unused"), health=health)


def test_areas_equal_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    count, width = 120, 12
    halves = generator.integers(0, 2, count)
    values = generator.integers(0, 2, (count, 2)).astype(np.float32)
    values[::7, 1] = np.nan
    features = generator.normal(size=(count, width)).astype(np.float32) + 2
    features[:, 0] += 1.5 * values[:, 0]
    patients = np.array([f"{n // 2:032x}" for n in range(count)])
    cohort = OnlineCohort(np.arange(count), patients, halves, ("seen", "rest"), values)
    actual = online_areas(features, cohort)
    assert actual.keys() == {f"probe_{m}{t}" for m in ("knn", "linear") for t in ("", "/seen", "/rest")}
    for column, task in enumerate(cohort.tasks):
        areas: dict[str, list[float]] = {"knn": [], "linear": []}
        pairs = []
        known = ~np.isnan(values[:, column])
        for half in (0, 1):
            everyone, fit, score = halves == half, known & (halves == half), known & (halves != half)
            x = (features - features[everyone].mean(axis=0)) / features[everyone].std(axis=0)
            y = np.nan_to_num(values[:, column])
            model = LogisticRegression(C=1e-2, tol=1e-9, max_iter=10_000).fit(x[fit], y[fit])
            unit = x / np.linalg.norm(x, axis=1, keepdims=True)
            distance, neighbours = NearestNeighbors(n_neighbors=20).fit(unit[fit]).kneighbors(unit[score])
            weight = np.exp((1 - distance**2 / 2) / 0.07)
            votes = (weight * y[fit][neighbours]).sum(axis=1) / weight.sum(axis=1)
            areas["knn"].append(roc_auc_score(y[score], votes))
            areas["linear"].append(roc_auc_score(y[score], model.predict_proba(x[score])[:, 1]))
            pairs.append(y[score].sum() * (1 - y[score]).sum())
        for name, both in areas.items():
            expected = np.average(both, weights=pairs)
            assert actual[f"probe_{name}/{task}"] == pytest.approx(expected, abs=1e-3), (name, task)
    assert actual["probe_linear/seen"] > 0.7
    assert actual["probe_linear"] == pytest.approx(
        (actual["probe_linear/seen"] + actual["probe_linear/rest"]) / 2
    )
