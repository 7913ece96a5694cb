"""The benchmark report: encoders on several datasets, with intervals, tests and leakage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from fmct_hpc.benchmark.tables import SUMMARY, BenchmarkSummary, status
from launch.report.columns import of_pairs, of_results
from launch.report.document import (
    Block,
    Bullets,
    Cell,
    Document,
    Gallery,
    Section,
    Text,
    cell,
    facts,
    interval,
    table,
)
from launch.report.probe import varying
from launch.report.probe_figures import efficiency, forest
from launch.report.results import Result, averaged, labels, with_most_labels
from shards.atomic import write_text
from shards.errors import FmctError
from shards.newer_version import read_error

PAGE, CARD = "benchmark.html", "benchmark.md"
LEAKAGE = {
    "unseen": "none were in its pretraining",
    "seen": "some were in its pretraining, without labels, so its figures are optimistic",
    "unknown": "it is unknown whether they were in its pretraining",
}
Row = Mapping[str, Any]


def write_page(out: Path) -> Path:
    """Write `out`/benchmark.html and benchmark.md from a benchmark's tables; returns the page's path.

    Raises FmctError if the tables are missing or of another version.
    """
    try:
        summary = BenchmarkSummary.model_validate_json((out / SUMMARY).read_bytes())
        results = pq.read_table(out / "results.parquet").to_pylist()
        comparisons = pq.read_table(out / "comparisons.parquet").to_pylist()
    except FileNotFoundError as error:
        raise FmctError(f"{error.filename}: missing; `fmct benchmark` writes it") from None
    except (ValidationError, pa.ArrowInvalid) as error:
        raise read_error(
            out, error, "damaged, or of another version; run `fmct benchmark --collect`"
        ) from None
    document = _document(summary, results, comparisons)
    write_text(out / CARD, document.markdown(PAGE))
    write_text(out / PAGE, document.html())
    return out / PAGE


def _document(summary: BenchmarkSummary, results: list[Row], comparisons: list[Row]) -> Document:
    by_dataset = {
        name: averaged(row for row in results if row["dataset"] == name) for name in summary.datasets
    }
    counts = {
        "datasets": len(summary.datasets),
        "encoders": len(summary.encoders),
        "results": sum(row["reason"] is None for row in results),
        "comparisons": len(comparisons),
    }
    sections = [
        _dataset(name, summary, by_dataset[name], [r for r in results if r["dataset"] == name])
        for name in summary.datasets
    ]
    return Document(
        "Benchmark of encoders",
        facts("", counts),
        (_headline(summary, by_dataset), _encoders(summary), *sections, _compared(summary, comparisons)),
    )


def _headline(summary: BenchmarkSummary, by_dataset: dict[str, list[Result]]) -> Section:
    """Mean AUC over the tasks of each dataset and test set, for each method with the largest label budget."""
    areas: dict[tuple[str, str], dict[str, list[float]]] = {}
    columns: dict[str, None] = {}
    for name, results in by_dataset.items():
        for result in with_most_labels(results):
            column = f"{name}, {result.tested}"
            columns[column] = None
            own = areas.setdefault((result.encoder, f"{result.method}, {result.features}"), {})
            own.setdefault(column, []).append(result.auc[0])
    rows = [
        (cell(encoder), cell(method), *(_mean(own.get(column)) for column in columns))
        for (encoder, method), own in areas.items()
    ]
    note = (
        "Means over the tasks of a dataset, with the largest label budget; intervals are below. "
        'Use the paired tests to judge differences. For an encoder without a CLS token, "CLS and mean" is '
        "the mean."
    )
    caption = "Mean AUC over tasks"
    return Section("Summary", (Text(note), table(caption, ("encoder", "method", *columns), rows)))


def _mean(values: list[float] | None) -> Cell:
    return cell(sum(values) / len(values), ".3f") if values else cell(None)


def _encoders(summary: BenchmarkSummary) -> Section:
    """The encoders, their licences, and the leakage of test patients."""
    columns = (
        "encoder",
        "kind",
        "licence of the weights",
        "training data, according to its authors",
        "source of layout and input",
    )
    rows = [
        [cell(text) for text in (one.name, one.kind, one.licence, one.trained_on, one.source)]
        for one in summary.encoders
    ]
    leaked = [
        f"{leakage.encoder} on {name}: of {leakage.tested:,} test patients, {LEAKAGE[status(leakage)]}."
        for name, dataset in summary.datasets.items()
        for leakage in dataset.leakage
    ]
    return Section("Encoders", (table("Encoders", columns, rows), Bullets(tuple(leaked))))


def _dataset(name: str, summary: BenchmarkSummary, results: list[Result], rows: list[Row]) -> Section:
    """Every result of one dataset."""
    dataset, level = summary.datasets[name], f"{summary.confidence:.0%}"
    blocks: list[Block] = [Text(summary.about[name])] if summary.about[name] else []
    if dataset.done < dataset.units:
        unfinished = f"Not finished: {dataset.done} of {dataset.units} units are done."
        blocks.append(Text(unfinished, warning=True))
    if results:
        leakage = {row["encoder"]: row["leakage"] for row in rows}
        columns = {
            **of_results(results, without=["trained on"]),
            "positive": [cell(r.positives) for r in results],
            f"AUC [{level}]": [interval(*r.auc) for r in results],
            f"AUPRC [{level}]": [interval(r.auprc, *r.auprc_ends) for r in results],
            "seen in pretraining": [cell(leakage[r.encoder]) for r in results],
        }
        caption = "Results, with percentile bootstraps over patients"
        blocks.append(varying(caption, columns, "results.parquet"))
        blocks.append(Gallery((forest(with_most_labels(results), level, f"areas-{name}"),), wide=True))
        by_labels = efficiency(results, f"labels-{name}-")
        blocks += [Gallery(by_labels)] if by_labels else []
    refused = dict.fromkeys((r["task"], labels(r), r["reason"]) for r in rows if r["reason"])
    blocks.append(Bullets(tuple(f"{task}, labels {share}: {why}." for task, share, why in refused)))
    return Section(f"Dataset {name}", tuple(blocks))


def _compared(summary: BenchmarkSummary, rows: list[Row]) -> Section:
    """Pairwise comparisons of encoders, corrected over all comparisons of the benchmark."""
    columns = {
        "dataset": [cell(row["dataset"]) for row in rows],
        **of_pairs(rows),
        f"difference in AUC [{summary.confidence:.0%}]": [
            interval(row["difference"], row["difference_low"], row["difference_high"], "+.3f") for row in rows
        ],
        "p": [cell(row["p"], ".2g") for row in rows],
        "p, corrected": [cell(row["p_holm_all"], ".2g") for row in rows],
    }
    note = (
        "DeLong's test on the same volumes, clustered by patient. Holm's correction is over "
        "all datasets, test sets, tasks and pairs of one method, budget and seed."
    )
    if not rows:
        return Section("Comparisons", (Text("There are no encoders to compare."),))
    return Section(
        "Comparisons", (Text(note), varying("Pairwise comparisons", columns, "comparisons.parquet"))
    )
