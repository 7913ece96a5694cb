"""Units of dense evaluation: one encoder, head, layer and seed, trained, scored per volume, and stored."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fmct_hpc.dense.config import HeadName, SegmentConfig
from fmct_hpc.dense.fit import Tokens, fit
from fmct_hpc.dense.picture import Example, example
from fmct_hpc.dense.score import predicted, scored, thresholds
from fmct_hpc.dense.source import Source
from fmct_hpc.dense.tables import VOLUMES
from fmct_hpc.model.execution import usable_device
from fmct_hpc.probe.store import FeatureStore
from shards.atomic import atomic_path, write_bytes
from shards.errors import raise_refusal

_OF_FIT = (
    *("cells", "hidden", "learning_rates", "weight_decay", "steps", "batch", "check_every"),
    "tolerance_mm",
)
"""Keys of the configuration on which a unit depends."""
_FACTS = b"fmct.unit"


@dataclass(frozen=True)
class Unit:
    """A cell of the grid; all classes are trained together."""

    encoder: str
    head: HeadName
    layer: int
    seed: int

    def digest(self, config: SegmentConfig, cohort_digest: str, store_digest: str) -> str:
        """SHA-256 of everything on which its table depends."""
        settings = config.model_dump(mode="json", include=set(_OF_FIT))
        if self.head == "linear":
            del settings["hidden"]
        own = [self.encoder, self.head, self.layer, self.seed]
        text = json.dumps([own, settings, cohort_digest, store_digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def row(self) -> dict[str, Any]:
        """Its columns in the tables."""
        return {"encoder": self.encoder, "head": self.head, "layer": self.layer, "seed": self.seed}


@dataclass(frozen=True)
class UnitFiles:
    """Paths of a unit's files: an example, and the metrics of its volumes, which are written last."""

    out: Path
    digest: str

    @property
    def table(self) -> Path:
        """Parquet of `VOLUMES`, with thresholds and chosen hyperparameters in its metadata."""
        return self.out / "units" / f"{self.digest[:16]}.parquet"

    @property
    def example(self) -> Path:
        """`Example`s, one per class that a tested volume has."""
        return self.out / "units" / f"{self.digest[:16]}.safetensors"

    def read(self) -> tuple[pa.Table, dict[str, Any]] | None:
        """The table and its metadata; None if there is none with this digest."""
        try:
            table = pq.read_table(self.table)
            facts = json.loads(table.schema.metadata[_FACTS])
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise_refusal(error, self.table)
            return None
        whole = facts.get("digest") == self.digest and table.schema.equals(VOLUMES) and self.example.is_file()
        return (table, facts) if whole else None

    def write(self, rows: list[dict[str, Any]], facts: dict[str, Any], examples: list[Example]) -> None:
        """Write example and table."""
        write_bytes(self.example, Example.packed(examples))
        table = pa.Table.from_pylist(rows, VOLUMES)
        document = json.dumps({**facts, "digest": self.digest})
        with atomic_path(self.table) as temporary:
            pq.write_table(table.replace_schema_metadata({_FACTS: document}), temporary, compression="zstd")


def compute(
    unit: Unit,
    source: Source,
    store: FeatureStore,
    files: UnitFiles,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train the unit's head, choose thresholds on validation, score the tested volumes, write the files."""
    cohort, config = source.cohort, source.config
    stored = store.tokens(unit.layer)
    places = source.places(store)
    train, validation = cohort.of("train"), cohort.of("validation")
    tokens = Tokens.over(_Ordered(stored, places), train, usable_device(config.device))  # type: ignore[arg-type]
    fitted = fit(
        unit.head, tokens, source.targets, train, validation, source.grid, config, unit.seed, progress
    )
    at, on = thresholds(fitted, source.cells, cohort, validation)
    learnt = np.array([source.targets[train, number].any() for number in range(len(cohort.classes))])
    at = np.where(learnt, at, np.nan)
    rows: list[dict[str, Any]] = []
    examples: list[Example] = []
    for split, tested in cohort.tests().items():
        scores = scored(fitted, source.cells, cohort, tested, at, config.tolerance_mm)
        rows += [{**unit.row(), "split": split, **row} for row in scores]
        if not examples:
            examples = [
                example(cohort, row, predicted(fitted, source.cells, row, at)[number], number)
                for number, row in _typical(scores, cohort.keys, cohort.classes)
            ]
    facts = {
        "chosen": fitted.chosen,
        "thresholds": [None if np.isnan(value) else float(value) for value in at],
        "learnt": learnt.tolist(),
        "validated": on.tolist(),
    }
    files.write(rows, facts, examples)


@dataclass(frozen=True)
class _Ordered:
    """A view of an array with reordered rows, which are read on access."""

    stored: NDArray[np.floating]
    places: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.places), *self.stored.shape[1:])

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        return np.asarray(self.stored[self.places[rows]])


def _typical(
    rows: list[dict[str, Any]], keys: NDArray[np.str_], classes: tuple[str, ...]
) -> list[tuple[int, int]]:
    """For each class, its number and the row of the volume with the (lower) median Dice."""
    row_of = {key: row for row, key in enumerate(keys.tolist())}
    typical = []
    for number, name in enumerate(classes):
        own = sorted((r["dice"], r["key"]) for r in rows if r["class"] == name and r["truth_ml"] > 0)
        if own:
            typical.append((number, row_of[own[(len(own) - 1) // 2][1]]))
    return typical
