"""The inputs of the results in a folder, recorded so that other results do not replace them silently.

The record is `subject.json`. Two sources are the same if their paths are equal (the contents may have
changed; the command then repeats the changed parts) or their digests are equal, whatever their paths.
"""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from shards.atomic import write_text
from shards.closed import Closed
from shards.errors import FmctError

FILE_NAME = "subject.json"


class Origin(Closed):
    """One input of the results."""

    path: str | None
    """Absolute path; None if it must not be recorded because it may name a patient."""
    digest: str

    @classmethod
    def of(cls, path: Path | None, digest: str) -> "Origin":
        """The origin of a source at `path`."""
        return cls(path=None if path is None else str(path.resolve()), digest=digest)

    def is_same(self, other: "Origin") -> bool:
        """Whether both are the same source."""
        return self.digest == other.digest or (self.path is not None and self.path == other.path)

    def __str__(self) -> str:
        return self.path or f"SHA-256 {self.digest[:12]}"


class Subject(Closed):
    """The inputs of a command's results."""

    command: str
    sources: dict[str, Origin]
    """Inputs by their role in the command."""


def claim(out: Path, subject: Subject, results: Iterable[str], known: bool = False) -> None:
    """Record the inputs of the results in the folder `out`, before the results are written.

    results: names of files that the command will write. known: existing results without a record (of an
    earlier version) are known to have the same inputs. Raises FmctError, which names the existing results, if
    their inputs differ or are unknown.
    """
    before = _read(out)
    if before is None and not known:
        held = next((name for name in results if (out / name).exists()), None)
        if held is not None:
            raise FmctError(
                f"{out}: already holds {held} with unknown inputs; give another folder, or move it away"
            )
    if before is not None:
        difference = _difference(before, subject)
        if difference:
            raise FmctError(f"{out}: holds results of {difference}; give another folder, or move them away")
    if before != subject:
        write_text(out / FILE_NAME, subject.model_dump_json(indent=1) + "\n")


def _difference(before: Subject, now: Subject) -> str | None:
    """How the inputs of the existing results differ; None if they do not."""
    if before.command != now.command:
        return f"`fmct {before.command}`"
    for name, source in now.sources.items():
        there = before.sources.get(name)
        if there is None or not there.is_same(source):
            return f"the {name} {there}"
    return None


def _read(out: Path) -> Subject | None:
    try:
        return Subject.model_validate_json((out / FILE_NAME).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise FmctError(f"{out / FILE_NAME}: damaged; give another folder, or move this one away") from None
