"""The report's section on probes: results with intervals, and pairwise comparisons of encoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from fmct_hpc.probe.kinds import KINDS
from fmct_hpc.probe.run import ProbeResult
from fmct_hpc.probe.sweep.collect import Summary
from launch.report.columns import of_pairs, of_results
from launch.report.document import Block, Bullets, Cell, Gallery, Section, Table, Text, cell, interval, table
from launch.report.figure_names import figure_name
from launch.report.probe_figures import efficiency, forest, reliability, reliability_of_kinds
from launch.report.results import (
    Result,
    averaged,
    curves,
    labels,
    of_kinds,
    side_by_side,
    sides,
    with_most_labels,
)
from shards.errors import FmctError
from shards.newer_version import read_error

MAX_ROWS = 500
"""Maximum number of rows of a table on the page; its caption names the Parquet file with all of them."""

COLLAPSIBLE = (
    "method",
    "features",
    "labels",
    "trained on",
    "tested on",
    "seeds",
    "AUC of seeds",
    "seed",
    "kind",
    "figure",
    "test",
    "search",
)


TESTS = {"delong": "DeLong", "bootstrap": "bootstrap of the difference"}


class Probes:
    """The output folder of `fmct probe` or `fmct sweep`, finished or not."""

    def __init__(self, folder: Path) -> None:
        """Read it; raises FmctError if it is missing or of another version."""
        try:
            self.summary = Summary.model_validate_json((folder / "summary.json").read_bytes())
            rows = pq.read_table(folder / "results.parquet").to_pylist()
            self._comparisons = pq.read_table(folder / "comparisons.parquet").to_pylist()
        except FileNotFoundError as error:
            remedy = "`fmct probe` and `fmct sweep` write it"
            raise FmctError(f"{error.filename}: missing; {remedy} at the end") from None
        except (ValidationError, pa.ArrowInvalid) as error:
            raise read_error(folder, error, "damaged, or written by another version; probe again") from None
        self.results = side_by_side(averaged(rows))
        """Ordered so that results of different encoders are adjacent."""
        self.of_kinds = side_by_side(of_kinds(rows))
        """Figures of non-binary labels."""
        self._curves = side_by_side(curves(rows))
        self._refused = list(dict.fromkeys((r["task"], labels(r), r["reason"]) for r in rows if r["reason"]))
        of_a_run = folder / "results.json"
        self.encoder_digest: str | None = None
        if of_a_run.is_file():
            try:
                self.encoder_digest = ProbeResult.model_validate_json(of_a_run.read_bytes()).encoder_digest
            except ValidationError as error:
                raise read_error(
                    of_a_run, error, "damaged, or written by another version; probe again"
                ) from None
        store = folder / "features" / self.summary.leakage[0].encoder
        self.features = store if store.is_dir() else None
        """The first encoder's feature store, if it is in the same folder."""

    @property
    def _level(self) -> str:
        return f"{self.summary.confidence:.0%}"

    def section(self) -> Section:
        """Tables and figures of the results, the comparisons, and reasons for missing results."""
        summary = self.summary
        blocks: list[Block] = []
        if summary.done < summary.units:
            unfinished = f"The sweep is unfinished: {summary.done} of {summary.units} units are done."
            blocks.append(Text(unfinished, warning=True))
        blocks += [
            Text(
                "All figures are computed on patients that the classifier was not trained on. The "
                f"{self._level} intervals are percentile bootstraps over patients. With several seeds, "
                "values and interval limits are means over seeds."
            ),
            Bullets(tuple(f"{leakage}."[0].upper() + f"{leakage}."[1:] for leakage in summary.leakage)),
        ]
        if self.results:
            blocks += [self._table(), *self._figures()]
        if self.of_kinds:
            blocks += [self._table_of_kinds(), *self._figures_of_kinds()]
        if self._comparisons:
            blocks.append(self._compared())
        if self._refused:
            refused = (f"{task}, labels {share}: not probed: {why}." for task, share, why in self._refused)
            blocks.append(Bullets(tuple(refused)))
        return Section("Evaluation", tuple(blocks))

    def _table(self) -> Table:
        columns: dict[str, list[Cell]] = {
            **of_results(self.results),
            "positive": [cell(r.positives) for r in self.results],
            "seeds": [cell(r.seeds) for r in self.results],
            f"AUC [{self._level}]": [interval(*r.auc) for r in self.results],
            "AUC of seeds": [_spread(r) for r in self.results],
            "AUPRC": [cell(r.auprc, ".3f") for r in self.results],
            "balanced accuracy": [
                cell(r.threshold_reason or r.balanced_accuracy, "" if r.threshold_reason else ".3f")
                for r in self.results
            ],
            "ECE": [cell(r.ece, ".3f") for r in self.results],
            "Brier": [cell(r.brier, ".3f") for r in self.results],
        }
        return varying("Probes", columns, "results.parquet")

    def _table_of_kinds(self) -> Table:
        results, shared = self.of_kinds, of_results(self.of_kinds)
        columns: dict[str, list[Cell]] = {
            "task": shared.pop("task"),
            "kind": [cell(r.kind) for r in results],
            **shared,
            "seeds": [cell(r.seeds) for r in results],
            "figure": [cell(figure_name(r.figure, r.at)) for r in results],
            f"value [{self._level}]": [interval(*r.value) for r in results],
        }
        return varying("Classes, grades, values and times to event", columns, "results.parquet")

    def _compared(self) -> Table:
        rows = self._comparisons
        columns = {
            **of_pairs(rows),
            "figure": [cell(figure_name(row.get("figure") or "auc")) for row in rows],
            f"difference [{self._level}]": [_signed(row) for row in rows],
            "test": [cell(TESTS[row.get("test") or "delong"]) for row in rows],
            "p": [cell(row["p"], ".2g") for row in rows],
            "p, corrected": [cell(row["p_holm"], ".2g") for row in rows],
        }
        caption = (
            "Pairwise comparisons of encoders, on the same volumes (Holm-corrected over tasks and pairs)"
        )
        return varying(caption, columns, "comparisons.parquet")

    def _figures(self) -> list[Block]:
        chosen = with_most_labels(self.results)
        by_labels = efficiency(self.results)
        return [
            Gallery((forest(chosen, self._level),), wide=True),
            *([Gallery(by_labels)] if by_labels else []),
            Gallery(reliability(chosen)),
        ]

    def _figures_of_kinds(self) -> list[Block]:
        panels = reliability_of_kinds(with_most_labels(self._curves), self._level)
        shown = len({one.place for one in self._curves})
        some = f"The first {len(panels)} of {shown} reliability curves; results.parquet has all."
        return [*([Text(some)] if shown > len(panels) else []), *([Gallery(panels)] if panels else [])]

    def headline(self) -> dict[str, Cell]:
        """The first method's AUC, averaged over tasks, of up to three encoders."""
        best = with_most_labels(self.results)
        if not best:
            return {}
        areas: dict[str, list[float]] = {}
        for result in best:
            if result.place[1:] == best[0].place[1:]:
                areas.setdefault(result.encoder, []).append(result.auc[0])
        means = {encoder: sum(values) / len(values) for encoder, values in areas.items()}
        return {f"mean AUC, {best[0].method}, {name}": cell(v, ".3f") for name, v in list(means.items())[:3]}

    def limits(self) -> list[str]:
        """The limits of these results, as sentences."""
        sentences = []
        for pair in dict.fromkeys(sides(row) for row in self._comparisons):
            rows = [row for row in self._comparisons if sides(row) == pair]
            above = [row for row in rows if row["difference_low"] > 0]
            below = [row for row in rows if row["difference_high"] < 0]
            better = [row for row in above if _more_is_better(row)]
            better += [row for row in below if not _more_is_better(row)]
            worse = [row for row in above + below if row not in better]
            sure = [row for row in better if row["p_holm"] < 1 - self.summary.confidence]
            sentences.append(
                f"Encoder {pair[0]} vs {pair[1]}: better in {len(better):,} of {len(rows):,} comparisons "
                f"({len(sure):,} after correction for multiple testing), worse in {len(worse):,}; the "
                "interval includes 0 in the others."
            )
        sentences += [
            f"Pretraining of encoder {leakage.encoder} included some of the test patients, without labels."
            for leakage in self.summary.leakage
            if leakage.pretrained
        ]
        return sentences


def _more_is_better(row: Mapping[str, Any]) -> bool:
    return KINDS[row.get("kind") or "binary"].greater_is_better


def _spread(result: Result) -> Cell:
    if result.spread is None:
        return cell(None)
    return Cell("{:.3f} to {:.3f}".format(*result.spread), result.spread[1] - result.spread[0], number=True)


def _signed(row: Mapping[str, Any]) -> Cell:
    return interval(row["difference"], row["difference_low"], row["difference_high"], "+.3f")


def varying(caption: str, columns: dict[str, list[Cell]], file: str) -> Table:
    """A table in which columns of `COLLAPSIBLE` with one value for all rows are moved to the caption."""
    same = {
        name: cells[0].text
        for name, cells in columns.items()
        if name in COLLAPSIBLE and len({one.text for one in cells}) == 1
    }
    shown = {name: cells for name, cells in columns.items() if name not in same}
    common = ", ".join(f"{name} {text}" for name, text in same.items() if text)
    rows = list(zip(*shown.values(), strict=True))
    caption += f"; all rows: {common}" if common else ""
    if len(rows) > MAX_ROWS:
        caption += f"; first {MAX_ROWS:,} of {len(rows):,} rows, see {file}"
    return table(caption, tuple(shown), rows[:MAX_ROWS])
