"""The ledger: a folder of marker files, one per finished task, with its results.

File names of a task contain its number and the start of its digest, so that outputs of another input or
configuration are never mistaken for it, and are kept until the new output is complete.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from preprocess.select.unmatched import UnmatchedTexts
from preprocess.tasks.plan import Plan, Task, read_plan
from shards import ledger as ledgers
from shards.closed import Closed
from shards.errors import FmctError
from shards.format_names import ShardFormat
from shards.formats import shard_path
from shards.index import sidecar_path
from shards.info import ShardInfo
from shards.ledger import Ledger
from shards.progress import Progress
from shards.share import WHOLE, Share


class TaskResult(Closed):
    """The result of a task: the content of its marker."""

    digest: str
    series: int
    volumes: int
    rejected: dict[str, int]
    """Series by reason."""
    dropped_slices: dict[str, int]
    """Slices left out of volumes, by reason."""
    source_bytes: int
    """Size of the files of series that became volumes."""
    seconds: float
    shards: dict[ShardFormat, ShardInfo]
    """Empty if no series became a volume."""
    not_understood: UnmatchedTexts = UnmatchedTexts()
    """Zero in markers of versions that did not record it."""

    def __str__(self) -> str:
        rejected = ", ".join(f"{n} {reason}" for reason, n in self.rejected.items()) or "none"
        return f"{self.volumes} volumes of {self.series} series in {self.seconds:.1f} s; rejected: {rejected}"


@dataclass(frozen=True)
class TaskFiles:
    """Paths of the files of one task."""

    out: Path
    index: int
    digest: str

    @property
    def stem(self) -> str:
        """The common prefix of its file names."""
        return f"{self.index:05d}-{self.digest[:8]}"

    @property
    def shard(self) -> str:
        """The name of its shard, in every format."""
        return f"shard-{self.stem}"

    @property
    def marker(self) -> Path:
        """Its TaskResult, written last."""
        return self.out / "tasks" / f"{self.stem}.json"

    @property
    def quarantine(self) -> Path:
        """Its part of the quarantine."""
        return self.out / "tasks" / f"{self.stem}.quarantine.parquet"

    @property
    def manifest(self) -> Path:
        """Its part of the manifest."""
        return self.out / "tasks" / f"{self.stem}.manifest.parquet"

    @property
    def pictures(self) -> Path:
        """Its images for the QC report."""
        return self.out / "tasks" / f"{self.stem}.pictures.parquet"

    @property
    def sketches(self) -> Path:
        """Sketches of its volumes; absent in outputs of earlier versions."""
        return self.out / "tasks" / f"{self.stem}.sketches.parquet"

    @property
    def parts(self) -> tuple[Path, Path, Path]:
        """Its tables."""
        return self.quarantine, self.manifest, self.pictures


def files(out: Path, index: int, task: Task) -> TaskFiles:
    """The files of task `index`."""
    return TaskFiles(out, index, task.digest)


def ledger(out: Path, plan: Plan) -> Ledger[TaskFiles, TaskResult]:
    """The tasks of a plan, in order."""
    return Ledger([files(out, index, task) for index, task in enumerate(plan.tasks)], result)


def mark(place: TaskFiles, result: TaskResult) -> None:
    """Mark a task as done; its other files must be complete."""
    ledgers.mark(place.marker, result)


def result(place: TaskFiles) -> TaskResult | None:
    """The result of a finished task whose files all exist, else None.

    Raises FmctError if a newer version wrote it.
    """
    result_ = ledgers.marked(place.marker, TaskResult)
    if result_ is None:
        return None
    whole = result_.digest == place.digest and all(part.is_file() for part in place.parts)
    return result_ if whole and all(_shard_is_whole(place, f, s) for f, s in result_.shards.items()) else None


def progress(out: Path, share: Share = WHOLE) -> Progress:
    """The number of tasks of a share that have a marker, of any plan; it grows with each finished task."""
    done = sum(map(share.has, _marked(out)))
    try:
        total = len(share.part(read_plan(out).tasks))
    except FmctError:
        return Progress(done, unit="task")
    return Progress(done, total, unit="task")


def _marked(out: Path) -> list[int]:
    """Numbers of the tasks that have a marker of any input and configuration, without duplicates."""
    return [int(path.name.split("-")[0]) for path in (out / "tasks").glob("*-????????.json")]


def _shard_is_whole(place: TaskFiles, format: ShardFormat, shard: ShardInfo) -> bool:
    directory = place.out / format
    file = shard_path(directory, place.shard, format)
    size = file.stat().st_size if file.is_file() else -1
    return size == shard.bytes and sidecar_path(directory, place.shard).is_file()


@dataclass(frozen=True)
class Status:
    """Progress of the plan's tasks."""

    done: int
    missing: int
    """Tasks that were never finished."""
    stale: int
    """Tasks finished only for another input or configuration."""
    volumes: int
    rejected: dict[str, int]
    """Rejected series by reason, of the finished tasks."""
    to_do: tuple[int, ...]
    """Numbers of the missing and stale tasks."""

    def __str__(self) -> str:
        tasks = f"{self.done} tasks done, {self.missing} missing, {self.stale} stale"
        reasons = ", ".join(f"{n} {reason}" for reason, n in self.rejected.items()) or "none"
        to_do = f"; to do: {_ranges(self.to_do)}" if self.to_do else ""
        return f"{tasks}; {self.volumes} volumes, rejected series: {reasons}{to_do}"


def _ranges(numbers: tuple[int, ...]) -> str:
    """Ascending numbers in the syntax of sbatch --array: 0-3,7."""
    members = set(numbers)
    starts = [n for n in numbers if n - 1 not in members]
    ends = [n for n in numbers if n + 1 not in members]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def status(out: Path) -> Status:
    """Read the plan and the markers in `out`; FmctError if there is no plan."""
    tasks = ledger(out, read_plan(out))
    places, results = tasks.units, tasks.found()
    done = [kept for kept in results if kept]
    marked = set(_marked(out))
    stale = sum(place.index in marked for place, kept in zip(places, results, strict=True) if not kept)
    rejected = sum((Counter(kept.rejected) for kept in done), Counter())
    return Status(
        done=len(done),
        missing=len(results) - len(done) - stale,
        stale=stale,
        volumes=sum(kept.volumes for kept in done),
        rejected=dict(sorted(rejected.items())),
        to_do=tuple(place.index for place, kept in zip(places, results, strict=True) if not kept),
    )
