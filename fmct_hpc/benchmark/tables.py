"""Tables of a benchmark: those of its sweeps, with dataset, leakage, and a correction over all datasets."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from fmct_hpc.benchmark.config import BenchmarkConfig
from fmct_hpc.probe.encoder_spec import EncoderSpec
from fmct_hpc.probe.leakage import Leakage
from fmct_hpc.probe.statistics.paired import holm
from fmct_hpc.probe.sweep.collect import Summary
from fmct_hpc.probe.sweep.tables import COMPARISONS, RESULTS
from shards.atomic import atomic_path, write_text
from shards.closed import Closed
from shards.lock import writing

Status = Literal["unseen", "seen", "unknown"]
SUMMARY = "benchmark.json"
BENCHMARK_RESULTS = pa.schema(
    [
        ("dataset", pa.string()),
        *RESULTS,
        ("leakage", pa.string()),
        ("tested_patients", pa.int64()),
        ("pretrained_patients", pa.int64()),
    ]
)
BENCHMARK_COMPARISONS = pa.schema([("dataset", pa.string()), *COMPARISONS, ("p_holm_all", pa.float64())])
_FAMILY = ("method", "pool", "layer", "fraction", "shots", "seed")
"""Common attributes of the comparisons of one correction, over datasets, test sets, tasks and pairs."""


class EncoderFacts(Closed):
    """Information about an encoder for the page."""

    name: str
    kind: str
    source: str | None
    licence: str | None
    """Licence of published weights; None for other weights and if unknown."""
    trained_on: str | None


class BenchmarkSummary(Closed):
    """Summary of the tables: benchmark.json."""

    datasets: dict[str, Summary]
    about: dict[str, str]
    encoders: tuple[EncoderFacts, ...]
    confidence: float

    def __str__(self) -> str:
        return "\n".join(f"{name}: {summary}" for name, summary in self.datasets.items())


def status(leakage: Leakage) -> Status:
    """Whether tested patients are known to be in an encoder's pretraining data (without labels)."""
    if leakage.pretrained is None:
        return "unknown"
    return "seen" if leakage.pretrained else "unseen"


def write_tables(out: Path, config: BenchmarkConfig, summaries: dict[str, Summary]) -> BenchmarkSummary:
    """Join the tables of the sweeps in `out`; benchmark.json is written last."""
    with writing(out, "fmct benchmark"):
        _write(_results(out, summaries), out / "results.parquet")
        _write(_comparisons(out, list(summaries)), out / "comparisons.parquet")
        summary = BenchmarkSummary(
            datasets=summaries,
            about={dataset.name: dataset.about for dataset in config.datasets},
            encoders=tuple(facts_of(spec) for spec in config.encoders),
            confidence=config.confidence,
        )
        write_text(out / SUMMARY, summary.model_dump_json(indent=1) + "\n")
    return summary


def facts_of(spec: EncoderSpec) -> EncoderFacts:
    """Information about an encoder from its specification."""
    if spec.peer is None:
        kind = f"function {spec.function}" if spec.function else "this package's"
        kind += ", random weights" if spec.untrained is not None else ""
        return EncoderFacts(name=spec.name, kind=kind, source=None, licence=None, trained_on=None)
    from fmct_hpc.peers.registry import PEERS

    title, source, licence, trained_on = PEERS[spec.peer].facts(spec.weights)
    if spec.untrained is not None:
        title, licence, trained_on = f"{title}, random weights", "none", "nothing"
    return EncoderFacts(name=spec.name, kind=title, source=source, licence=licence, trained_on=trained_on)


def _results(out: Path, summaries: dict[str, Summary]) -> pa.Table:
    rows = []
    for name, summary in summaries.items():
        seen = {leakage.encoder: leakage for leakage in summary.leakage}
        for row in pq.read_table(out / name / "results.parquet").to_pylist():
            leakage = seen[row["encoder"]]
            known = {"tested_patients": leakage.tested, "pretrained_patients": leakage.pretrained}
            rows.append({"dataset": name, **row, "leakage": status(leakage), **known})
    return pa.Table.from_pylist(rows, BENCHMARK_RESULTS)


def _comparisons(out: Path, names: list[str]) -> pa.Table:
    """All pairs; p_holm_all is corrected over the datasets, test sets, tasks and pairs of a setting."""
    rows = [
        {"dataset": name, **row}
        for name in names
        for row in pq.read_table(out / name / "comparisons.parquet").to_pylist()
    ]
    families: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        families[json.dumps([row[key] for key in _FAMILY])].append(place)
    for places in families.values():
        for place, p in zip(places, holm([float(rows[place]["p"]) for place in places]), strict=True):
            rows[place]["p_holm_all"] = float(p)
    return pa.Table.from_pylist(rows, BENCHMARK_COMPARISONS)


def _write(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
