"""Retrieval against scikit-learn, one query at a time, and chance against all rankings."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from fmct_hpc.retrieval import search as search_module
from fmct_hpc.retrieval import stored_features as stored_module
from fmct_hpc.retrieval.config import SearchConfig
from fmct_hpc.retrieval.exact import nearest_of
from fmct_hpc.retrieval.index import CODES, Index, lists_for, recall_of
from fmct_hpc.retrieval.measure import KS, drawn, evaluate_queries
from fmct_hpc.retrieval.search import Search, chosen_search, search_for
from fmct_hpc.retrieval.stored_features import StoredFeatures
from shards.errors import FmctError

VOLUMES, TASKS = 90, 3
Heads = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def heads() -> Heads:
    """Features that determine the first label, patients with several volumes, and labels, some unknown."""
    generator = np.random.default_rng(0)
    patients = np.sort(generator.integers(0, 40, VOLUMES))
    labels = (generator.random((VOLUMES, TASKS)) < (0.4, 0.1, 0.5)).astype(float)
    labels[generator.random((VOLUMES, TASKS)) < 0.15] = np.nan
    labels[:, 2] = np.where(patients == patients[50], 1.0, 0.0)  # a single patient
    x = generator.normal(3, 1, (VOLUMES, 12))
    x[:, 0] += 2 * np.nan_to_num(labels[:, 0])
    x += generator.normal(0, 1, (40, 12))[patients]  # whose volumes are similar
    return x.astype(np.float32), patients, labels


def stored(x: np.ndarray, training: int) -> StoredFeatures:
    """Features in two arrays side by side, standardised over the first rows."""
    half = x.shape[1] // 2
    arrays = x[:, :half].astype(np.float32), x[:, half:].astype(np.float32)
    return StoredFeatures(arrays, np.arange(len(x))).standardised_over(np.arange(training))


def exact(own: StoredFeatures) -> Search:
    """The ranking of all volumes for all."""
    return search_for(own, len(own), len(own), SearchConfig())


@pytest.mark.parametrize("at_once", [1, 300, 2**24])
def test_each_query_has_the_precision_and_recall_of_scikit_learn(
    heads: Heads, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "AT_ONCE", at_once)
    x, patients, labels = heads
    monkeypatch.setattr(stored_module, "BATCH_BYTES", 40 * at_once)
    ranks = exact(stored(x, 60))
    scaled = (x - x[:60].mean(axis=0)) / x[:60].std(axis=0)
    cosines = scaled @ scaled.T / np.linalg.norm(scaled, axis=1) / np.linalg.norm(scaled, axis=1)[:, None]
    actual = evaluate_queries(ranks, patients, labels)
    for own, evaluated in zip(labels.T, actual, strict=True):
        expected, recalls, who = [], [], []
        for row in np.flatnonzero(own == 1):
            others = (patients != patients[row]) & ~np.isnan(own)
            truth = own[others] == 1
            if truth.any():
                expected.append(average_precision_score(truth, cosines[row, others]))
                ranked = truth[np.argsort(-cosines[row, others])]
                recalls.append([ranked[:k].any() for k in KS])
                who.append(patients[row])
        assert evaluated.patients.tolist() == who
        assert evaluated.precision == pytest.approx(np.array(expected), abs=1e-6)
        assert evaluated.hits.tolist() == recalls
    assert len(actual[0].patients) > 10
    assert not len(actual[2].patients), "a patient does not find itself"


def test_chance_is_the_mean_over_all_rankings() -> None:
    labels = np.zeros((25, 1))
    labels[[3, 8, 9, 20]] = 1
    own = stored(np.random.default_rng(1).normal(size=(25, 6)), 25)
    (evaluated,) = evaluate_queries(exact(own), np.arange(25), labels)
    precisions, recalls = [], []
    for places in combinations(range(24), 3):  # of the three relevant ones
        precisions.append(np.mean([(n + 1) / (place + 1) for n, place in enumerate(places)]))
        recalls.append([places[0] < k for k in KS])
    mean = np.r_[np.mean(precisions), np.mean(recalls, axis=0)]
    assert evaluated.by_chance == pytest.approx(np.tile(mean, (4, 1)))


def test_chance_recall_is_1_where_k_covers_all_volumes() -> None:
    labels = np.array([[1.0], [1.0], [0.0]])
    (evaluated,) = evaluate_queries(exact(stored(np.eye(3), 3)), np.arange(3), labels)
    assert evaluated.by_chance[:, 1:].tolist() == [[0.5, 1.0, 1.0]] * 2


def test_intervals_contain_the_mean_and_count_a_patient_once(heads: Heads) -> None:
    x, patients, labels = heads
    evaluated = evaluate_queries(exact(stored(x, VOLUMES)), patients, labels)[0]
    precision, *recalls = drawn(evaluated, 2000)
    assert precision.value == pytest.approx(evaluated.precision.mean())
    assert len(recalls) == len(KS)
    interval = precision.interval(0.95)
    # The delta method for a ratio of sums over patients.
    numbered = np.unique(evaluated.patients, return_inverse=True)[1]
    residual = np.bincount(numbered, evaluated.precision - precision.value)
    error = np.sqrt((residual**2).sum()) / len(evaluated.precision)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * error, rel=0.15)


@pytest.mark.parametrize("code", CODES)
def test_an_exhaustive_index_gives_the_figures_of_the_exact_search(heads: Heads, code: str) -> None:
    x, patients, labels = heads
    labels = np.column_stack([labels, patients % 5])
    own = stored(x, 60)
    index = Search(own, code, VOLUMES, SearchConfig())
    assert (index.depth, index.recall) == (VOLUMES, 1)
    expected = evaluate_queries(exact(own), patients, labels, classes=(3,))
    actual = evaluate_queries(index, patients, labels, classes=(3,))
    for one, other in zip(expected, actual, strict=True):
        assert one.patients.tolist() == other.patients.tolist()
        np.testing.assert_allclose(one.precision, other.precision, atol=1e-12)
        assert one.hits.tolist() == other.hits.tolist()
        np.testing.assert_allclose(one.by_chance, other.by_chance, atol=1e-12)


@pytest.mark.parametrize("code", CODES)
def test_an_index_ranks_more_candidates_than_it_returns(heads: Heads, code: str) -> None:
    """Rounded features misorder similar volumes; the candidates are ranked by exact cosines."""
    own = stored(heads[0], VOLUMES)
    queries = own.unit(np.arange(VOLUMES))
    few, whole = Search(own, code, 5, SearchConfig()), Search(own, code, VOLUMES, SearchConfig())
    assert few.recall == 1
    (numbers, cosines), (of_all, cosines_of_all) = few.nearest(queries), whole.nearest(queries)
    np.testing.assert_array_equal(numbers, of_all[:, :5])
    np.testing.assert_array_equal(cosines, cosines_of_all[:, :5])


class Beginnings:
    """Random rankings that end at `depth`."""

    volumes, at_once = 30, 7

    def __init__(self, depth: int) -> None:
        self.depth, self.generator = depth, np.random.default_rng(2)

    def ranked(self, rows: np.ndarray) -> np.ndarray:
        order = np.stack([self.generator.permutation(np.delete(np.arange(30), row)) for row in rows])
        return np.where(np.arange(29) < self.depth, order, -1)[:, : self.depth + 2]


def test_average_precision_of_a_truncated_ranking_equals_a_plain_loop_and_chance_is_its_mean() -> None:
    patients, labels = np.arange(30), (np.arange(30)[:, None] < 9).astype(float)
    collected: list[np.ndarray] = []
    expected: list[np.ndarray] = []
    for _ in range(400):
        ranks = Beginnings(12)
        ranks.generator = np.random.default_rng(len(collected))
        (evaluated,) = evaluate_queries(ranks, patients, labels)
        collected.append(evaluated.precision)
        again = Beginnings(12)
        again.generator = np.random.default_rng(len(expected))
        order = np.concatenate([again.ranked(np.arange(9)[start : start + 7]) for start in (0, 7)])
        right = (order >= 0) & (order < 9)
        sums = [sum(row[: i + 1].sum() / (i + 1) for i in np.flatnonzero(row)) for row in right]
        expected.append(np.array(sums) / 8)  # of eight others of the label, at most 12 are ranked
    np.testing.assert_allclose(collected, expected, atol=1e-12)
    assert np.mean(collected) == pytest.approx(evaluated.by_chance[0, 0], abs=0.005)


def test_an_index_finds_near_neighbours_with_exact_cosines() -> None:
    generator = np.random.default_rng(4)
    centres = generator.normal(size=(60, 32))
    own = stored(centres[generator.integers(0, 60, 6000)] + generator.normal(size=(6000, 32)) * 0.6, 6000)
    gigabytes = 4 * 6000 * 32 / 1e9
    assert chosen_search(own, 6000, 6000, SearchConfig(memory_gb=gigabytes)) == "exact"
    small = SearchConfig(memory_gb=gigabytes / 2)
    assert chosen_search(own, 6000, 6000, small) == "ivf-sq8"
    # Few queries are answered by one pass over the features, which building an index needs too.
    lists = lists_for(6000)
    assert [chosen_search(own, count, 5, small) for count in (lists, lists + 1)] == ["exact", "ivf-sq8"]
    with pytest.raises(FmctError, match=r"search\.memory_gb"):
        chosen_search(own, 6000, 6000, SearchConfig(memory_gb=gigabytes / 20))
    index = Index(own, "ivf-sq8", SearchConfig(probes=16))
    assert recall_of(index, own, 200) > 0.9
    queries = own.unit(np.arange(50))
    numbers, cosines = index.nearest(queries, 100)
    np.testing.assert_allclose(cosines, np.einsum("ij,ikj->ik", queries, own.whole()[numbers]), atol=1e-6)
    assert (np.diff(cosines, axis=1) <= 0).all()
    assert nearest_of(own.batches(), queries, 1)[0][:, 0].tolist() == list(range(50))
