"""State of a sweep: the plan of tasks, and a marker for each finished unit, written after its tables."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from fmct_hpc.probe.leakage import Leakage
from fmct_hpc.probe.sweep.grid import Unit
from shards import ledger as ledgers
from shards.atomic import atomic_path, write_text
from shards.closed import Closed
from shards.errors import FmctError
from shards.names import Sha256
from shards.newer_version import read_error
from shards.progress import Progress
from shards.share import WHOLE, Share

TABLES = ("results", "predictions")
PLAN_NAME = "plan.json"


class Plan(Closed):
    """All units and their assignment to tasks."""

    units: tuple[Unit, ...]
    digests: tuple[Sha256, ...]
    """One per unit."""
    seconds: tuple[float, ...]
    """Estimated cost of each unit."""
    tasks: tuple[tuple[int, ...], ...]
    """Unit numbers of each task."""
    encoders: tuple[str, ...]
    """Recorded `EncoderSpec`s, as JSON."""
    leakage: tuple[Leakage, ...]
    """One per encoder."""

    def share(self, share: Share) -> list[int]:
        """Numbers of the units of a share's tasks."""
        return [number for task in share.part(self.tasks) for number in task]


class UnitMarker(Closed):
    """Marks a unit as finished."""

    digest: str
    source: str
    """Digest of the input: `FeatureInfo.source_digest`, or `EncoderSpec.digest` for fine-tuning."""
    seconds: float
    results: int


@dataclass(frozen=True)
class UnitFiles:
    """Paths of the tables of one unit."""

    out: Path
    digest: str

    def table(self, name: str) -> Path:
        """Path of one of `TABLES`."""
        return self.out / "units" / f"{self.digest[:16]}.{name}.parquet"

    @property
    def marker(self) -> Path:
        """Written last."""
        return self.out / "units" / f"{self.digest[:16]}.json"

    def write(self, tables: dict[str, pa.Table], marker: UnitMarker) -> None:
        """Write the tables of a unit, then its marker."""
        for name in TABLES:
            with atomic_path(self.table(name)) as temporary:
                pq.write_table(tables[name], temporary, compression="zstd")
        ledgers.mark(self.marker, marker)

    def done(self, source: str) -> bool:
        """Whether the unit was computed from this source and its tables exist.

        Raises RefusedError if the files cannot be accessed, and FmctError if a newer version computed it.
        """
        marker = ledgers.marked(self.marker, UnitMarker)
        whole = all(self.table(name).is_file() for name in TABLES)
        return bool(marker and whole and marker.digest == self.digest and marker.source == source)


def progress(out: Path, share: Share = WHOLE) -> Progress:
    """Number of finished units in the tasks of a share; unknown without a plan."""
    try:
        plan = read_plan(out)
    except FmctError:
        return Progress(None)
    mine = plan.share(share)
    return Progress(sum(UnitFiles(out, plan.digests[n]).marker.is_file() for n in mine), len(mine))


def shares_units(out: Path, plan: Plan, encoders_too: bool) -> bool:
    """Whether the plan in `out` has a unit in common with `plan`, hence the same volumes and labels."""
    try:
        existing = read_plan(out)
    except FmctError:
        return False
    same = not encoders_too or existing.encoders == plan.encoders
    return same and bool(set(existing.digests) & set(plan.digests))


def write_plan(out: Path, plan: Plan) -> None:
    """Write the plan in `out`."""
    write_text(out / PLAN_NAME, plan.model_dump_json(indent=1) + "\n")


def read_plan(out: Path) -> Plan:
    """The plan in `out`; raises FmctError if there is none."""
    path = out / PLAN_NAME
    try:
        return Plan.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise FmctError(f"{path}: no plan yet; create it with `fmct sweep --plan`") from None
    except ValidationError as error:
        raise read_error(path, error, "invalid plan for this version; run `fmct sweep --plan`") from None
