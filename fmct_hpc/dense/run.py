"""`fmct segment`: comparison of encoders by segmentation heads on their frozen tokens."""

from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from fmct_hpc.dense.cohort import Cohort, read_cohort
from fmct_hpc.dense.config import HeadName, SegmentConfig
from fmct_hpc.dense.figures import OF_TRUTH, draws
from fmct_hpc.dense.reasons import Reason
from fmct_hpc.dense.source import Source
from fmct_hpc.dense.tables import COMPARISONS, RESULTS, VOLUMES
from fmct_hpc.dense.unit import Unit, UnitFiles, compute
from fmct_hpc.probe.leakage import Leakage, check_leakage
from fmct_hpc.probe.statistics.bootstrap import Draws
from fmct_hpc.probe.store import FeatureStore
from shards.atomic import atomic_path, write_text
from shards.closed import Closed
from shards.errors import FmctError
from shards.ledger import Ledger
from shards.listed import register_files
from shards.lock import writing
from shards.output_paths import require_folder
from shards.share import Share
from shards.subject import Origin, Subject, claim

TABLES = ("results", "volumes", "comparisons")
SUMMARY = "summary.json"
Progress = Callable[[int, int], None]
_Drawn = dict[tuple[str, ...], dict[str, Draws]]


class ExampleFile(Closed):
    """The file with a unit's `fmct_hpc.dense.picture.Example`s."""

    encoder: str
    head: str
    layer: int
    seed: int
    file: Annotated[str, Field(pattern=r"^units/[0-9a-f]{16}\.safetensors$")]


class Summary(Closed):
    """Summary of the tables."""

    classes: tuple[str, ...]
    volumes: int
    confidence: float
    tolerance_mm: float
    leakage: tuple[Leakage, ...]
    examples: tuple[ExampleFile, ...]
    """In the configuration's order."""


class Planned(NamedTuple):
    """A unit of the grid, with its files and its encoder."""

    place: int
    """In the grid, from 0."""
    encoder: int
    """Number in `SegmentConfig.compared`."""
    unit: Unit
    files: UnitFiles
    step: int | None
    """Training step of the encoder."""


_Units = Ledger[Planned, tuple[pa.Table, dict[str, Any]]]


class Segmentation:
    """A configuration and its output folder."""

    def __init__(self, config: SegmentConfig, out: Path) -> None:
        self.config, self.out = config, out

    @cached_property
    def cohort(self) -> Cohort:
        """The volumes with masks."""
        return read_cohort(self.config)

    def run(self, progress: Progress = lambda done, total: None) -> pa.Table:
        """Extract, train, score, compare, and write the tables; finished units are reused. Returns results.

        `out`/results.parquet has a row per encoder, head, layer, seed, class and test set; volumes.parquet
        also per tested volume; comparisons.parquet a row per pair of encoders.

        Raises FmctError for masks of other volumes, if tested patients are, or may be, in an encoder's
        pretraining data and that is not allowed, and if `out` has results of another dataset or masks.
        """
        leakage = self._leakage()
        config, cohort = self.config, self.cohort
        with writing(self.out, "fmct segment"):
            self._claim()
            ledger = self._ledger(extract=True)
            self._make(ledger, progress)
            results, volumes, drawn = self._figures(ledger)
            tables = (results, volumes, self._compared(drawn, results))
            for name, table in zip(TABLES, tables, strict=True):
                with atomic_path(self.out / f"{name}.parquet") as temporary:
                    pq.write_table(table, temporary, compression="zstd")
            summary = Summary(
                classes=cohort.classes,
                volumes=len(cohort.rows),
                confidence=config.confidence,
                tolerance_mm=config.tolerance_mm,
                leakage=leakage,
                examples=tuple(
                    ExampleFile(**one.unit.row(), file=str(one.files.example.relative_to(self.out)))
                    for one in ledger.units
                ),
            )
            write_text(self.out / SUMMARY, summary.model_dump_json(indent=1) + "\n")
        if not pc.any(pc.is_null(results["reason"])).as_py():
            reasons = ", ".join(sorted(set(results["reason"].to_pylist())))
            raise FmctError(f"{self.out}: no results: {reasons}; masks of more patients are required")
        return results

    def extract(self, encoder: int | None = None) -> None:
        """Extract missing patch tokens of the encoder with this number; None: of all."""
        compared = self.config.compared
        if encoder is not None and not 0 <= encoder < len(compared):
            raise FmctError(f"no extraction task {encoder}: there are {len(compared)}, from 0")
        require_folder(self.config.features)
        for spec in compared if encoder is None else compared[encoder : encoder + 1]:
            Source(spec, self.config, self.cohort).extract()

    def run_share(self, share: int, shares: int, progress: Progress = lambda done, total: None) -> int:
        """Compute the units `share`, `share` + `shares` and so on, for a job array; returns their number.

        Raises FmctError as `run`, and if tokens are not extracted yet.
        """
        self._leakage()
        whole = self._ledger(extract=False)
        own = whole.share(Share(share, shares))
        with writing(self.out, "fmct segment", shared=True):
            self._claim()
            register_files(self.out, [one.files.table for one in whole.units], Share(share, shares))
            self._make(own, progress)
            return len(own.units)

    def _leakage(self) -> tuple[Leakage, ...]:
        """Overlap with each encoder's pretraining patients; raises FmctError if that is not allowed."""
        config = self.config
        require_folder(self.out)
        require_folder(config.features)
        tested = self.cohort.tested()
        allowed = config.allow_pretraining_patients, config.allow_unknown_pretraining
        return tuple(
            check_leakage(spec.name, tested, spec.pretraining_patients, *allowed) for spec in config.compared
        )

    def _claim(self) -> None:
        origins = {
            "dataset": Origin.of(self.config.data, self.cohort.volumes.content_digest()),
            "masks": Origin.of(self.config.masks, self.cohort.masks.content_digest()),
        }
        claim(self.out, Subject(command="segment", sources=origins), ["results.parquet"])

    def _ledger(self, extract: bool) -> _Units:
        """All units, in order. extract: missing tokens are extracted; else FmctError if any are."""
        planned: list[Planned] = []
        for number, spec in enumerate(self.config.compared):
            source = Source(spec, self.config, self.cohort)
            store = source.extract() if extract else source.extracted()
            for cell in self._cells:
                unit = Unit(spec.name, *cell)
                digest = unit.digest(self.config, self.cohort.digest, store.info.source_digest)
                files = UnitFiles(self.out, digest)
                planned.append(Planned(len(planned), number, unit, files, source.encoder.step))
        return Ledger(planned, lambda one: one.files.read())

    @property
    def _cells(self) -> list[tuple[HeadName, int, int]]:
        """Head, layer and seed of each unit of one encoder."""
        return list(product(self.config.heads, self.config.layers, self.config.seeds))

    def _make(self, ledger: _Units, progress: Progress) -> None:
        """Compute the missing units of a ledger, with one encoder at a time in memory."""
        steps = len(self.config.learning_rates) * self.config.steps
        total = len(self.config.compared) * len(self._cells) * steps

        @lru_cache(maxsize=1)
        def opened(encoder: int) -> tuple[Source, FeatureStore]:
            source = Source(self.config.compared[encoder], self.config, self.cohort)
            return source, source.extract()

        def make(one: Planned) -> None:
            advance = partial(_advance, progress, one.place * steps, total)
            compute(one.unit, *opened(one.encoder), one.files, advance)

        ledger.make(make)

    def _figures(self, ledger: _Units) -> tuple[pa.Table, pa.Table, _Drawn]:
        cohort, config = self.cohort, self.config
        patient = dict(zip(cohort.keys.tolist(), cohort.patient_keys.tolist(), strict=True))
        results, tables, drawn = [], [], {}
        kept = ledger.collect(lambda missing: FmctError(f"{self.out}: {len(missing)} units are not complete"))
        for one, (table, facts) in zip(ledger.units, kept, strict=True):
            tables.append(table.replace_schema_metadata())
            rows = table.to_pylist()
            for number, name in enumerate(cohort.classes):
                for split, tested in cohort.tests().items():
                    own = [row for row in rows if (row["class"], row["split"]) == (name, split)]
                    cell = {**one.unit.row(), "class": name, "split": split, "step": one.step}
                    cell |= {
                        "n_train": len(cohort.of("train")),
                        "n_validation": len(cohort.of("validation")),
                        "n": len(tested),
                        "n_with": sum(row["truth_ml"] > 0 for row in own) if own else None,
                        "patients": len(np.unique(cohort.patient_keys[tested])),
                        "threshold": facts["thresholds"][number],
                        "chosen": ", ".join(f"{key}={value:g}" for key, value in facts["chosen"].items()),
                    }
                    lacking = _lacking(facts, number, cell["n_with"])
                    if lacking is not None:
                        cell |= {"reason": lacking.text, "reason_code": lacking.value}
                    if own:
                        patients = np.array([patient[row["key"]] for row in own], dtype=np.str_)
                        figures = draws(own, patients, config.bootstrap)
                        drawn[(*map(str, one.unit.row().values()), name, split)] = figures
                        cell |= _columns(figures, config.confidence)
                        ceilings = [row["dice_ceiling"] for row in own if row["truth_ml"] > 0]
                        cell["dice_ceiling"] = float(np.mean(ceilings)) if ceilings else None
                    results.append(cell)
        return pa.Table.from_pylist(results, RESULTS), pa.concat_tables(tables).cast(VOLUMES), drawn

    def _compared(self, drawn: _Drawn, results: pa.Table) -> pa.Table:
        """Compare all pairs of encoders over the same resamples of the same volumes."""
        place_of = ("encoder", "head", "layer", "seed", "class", "split")
        held = {tuple(str(row[name]) for name in place_of): row["n_with"] for row in results.to_pylist()}
        names = [spec.name for spec in self.config.compared]
        rows = []
        for first, second in combinations(names, 2):
            for place, figures in drawn.items():
                other = drawn.get((second, *place[1:]))
                if place[0] != first or other is None or np.isnan(figures["dice"].value):
                    continue
                head, layer, seed, name, split = place[1:]
                row: dict[str, Any] = {"encoder": first, "versus": second, "head": head, "layer": int(layer)}
                row |= {"seed": int(seed), "class": name, "split": split, "n_with": held[place]}
                for figure in OF_TRUTH:
                    interval = (figures[figure] - other[figure]).interval(self.config.confidence)
                    row |= {
                        f"{figure}_difference": interval.value,
                        f"{figure}_difference_low": interval.low,
                        f"{figure}_difference_high": interval.high,
                    }
                rows.append(row)
        return pa.Table.from_pylist(rows, COMPARISONS)


def _advance(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def _lacking(facts: dict[str, Any], number: int, tested: int | None) -> Reason | None:
    if not facts["learnt"][number]:
        return Reason.NO_TRAINING
    if not facts["validated"][number]:
        return Reason.NO_VALIDATION
    return None if tested else Reason.NO_TEST


def _columns(figures: dict[str, Draws], confidence: float) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for name, figure in figures.items():
        if not np.isnan(figure.value):
            own = figure.interval(confidence)
            columns |= {name: own.value, f"{name}_low": own.low, f"{name}_high": own.high}
    return columns


def printed(table: pa.Table) -> str:
    """The results as aligned text."""
    names = ("class", "encoder", "head", "split")
    rows = sorted(table.to_pylist(), key=lambda row: (row["class"], row["split"]))
    widths = [max(len(row[name]) for row in rows) for name in names]
    lines = ["class, encoder, head, test set, volumes with the class; Dice (ceiling), HD95 and ASSD in mm"]
    for row in rows:
        place = "  ".join(f"{row[name]:<{width}}" for name, width in zip(names, widths, strict=True))
        text = row["reason"]
        if row["dice"] is not None:
            text = f"{row['dice']:.3f} [{row['dice_low']:.3f}, {row['dice_high']:.3f}]"
            text += f" ({row['dice_ceiling']:.3f})  {row['hd95_mm']:.1f}, {row['assd_mm']:.1f}"
        lines.append(f"{place}  {row['n_with'] or 0:>4}  {text}")
    return "\n".join(lines)
