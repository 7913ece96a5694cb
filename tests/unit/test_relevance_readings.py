"""The reading of a head, which relevance maps explain, equals its output."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from relevance_classifiers import KINDS

from fmct_hpc.probe.attentive import AttentiveHead, StudyAttentiveHead
from fmct_hpc.probe.heads import LinearHead
from fmct_hpc.probe.kinds import BINARY, Kind
from fmct_hpc.probe.series import ROLES, Series, SeriesPool, over_series
from fmct_hpc.probe.series_attention import StudyLinearHead
from fmct_hpc.relevance.reading import readings_of

SERIES = np.array([1, 3, 0])


def wanted(kind: Kind, raw: np.ndarray) -> dict[int | None, float]:
    """The scalar of a head's raw outputs, of one sample, that is explained."""
    if kind.name == "multiclass":
        return {number: raw[0, k] - raw[0].mean() for k, number in enumerate(kind.classes)}
    return {None: float(raw.mean())}


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("head", ["linear", "attentive", "mean", "max", "attention", "patches"])
def test_a_reading_equals_the_head_output_for_every_kind_of_scans_and_studies(task: str, head: str) -> None:
    kind, rng, patches = KINDS[task], np.random.default_rng(5), 4
    tokens = rng.normal(size=(3 if head in ("mean", "max", "attention", "patches") else 1, 1 + patches, 6))
    queries = head in ("attentive", "patches")
    rows = (2, 6) if queries else (12,)
    shape = rows if kind == BINARY else (*rows, kind.directions)
    bias = rng.normal(size=() if kind == BINARY else kind.outputs)
    scaling = rng.normal(size=(2, *rows[-1:])), rng.uniform(0.5, 2, (2, *rows[-1:]))
    mean, scale = scaling[0][0], scaling[1][0]
    parts = [mean, scale, *([rng.normal(size=rows)] if queries else []), rng.normal(size=shape), bias]
    added = {"attention": [rng.normal(size=12), rng.normal(size=6)], "patches": [rng.normal(size=(6, 6))]}
    kinds = {"attention": StudyLinearHead, "patches": StudyAttentiveHead, "attentive": AttentiveHead}
    parts = [part.astype(np.float32) for part in (*parts, *added.get(head, []))]
    made = kinds.get(head, LinearHead)(*parts)
    read = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=1)
    series = Series(tokens[:, 1:] if queries else read, SERIES, np.zeros(1, np.int64))
    if head in ("linear", "attentive"):
        raw = made.raw(series.values)
    elif head in ("mean", "max"):
        raw = made.raw(over_series(series, cast(SeriesPool, head)))
    else:
        raw = made.raw_of_studies(series)
    of_studies = (
        None if head in ("linear", "attentive") else SimpleNamespace(sample="study", series_pool=head)
    )
    record: Any = SimpleNamespace(pools=("cls", "mean"), of_studies=of_studies, method="m")
    collected = {}
    for number, reading in readings_of(record, made, kind, 1, torch.device("cpu")).items():
        reading = reading.of_series(tuple(ROLES[role] for role in SERIES))
        given = torch.from_numpy(tokens).float()
        weights = reading.weights(given)
        assert all(w.sum(dim=(0, 1)).numpy() == pytest.approx(1, abs=1e-5) for w in weights)
        collected[number] = reading.logits(given, weights).item()
        twice = torch.cat([given, given])
        assert reading.logits(twice, reading.weights(twice)).tolist() == pytest.approx(
            [collected[number]] * 2
        )
    assert collected == pytest.approx(wanted(kind, np.asarray(raw).reshape(1, -1)), abs=1e-4)
