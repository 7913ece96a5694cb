"""The inputs of the results in a folder, so that results of other inputs do not replace them silently.

They are recorded in `subject.json`. A source is the same if its path is (its contents may have changed; the
command then repeats the changed parts), or its digest, wherever it is now.
"""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from shards.atomic import write_text
from shards.closed import Closed
from shards.errors import FmctError

FILE_NAME = "subject.json"


class Origin(Closed):
    """One of the inputs that say what results are about."""

    path: str | None
    """From /; None if it must not be recorded, as a path may name a patient."""
    digest: str

    @classmethod
    def of(cls, path: Path | None, digest: str) -> "Origin":
        """The source at `path`."""
        return cls(path=None if path is None else str(path.resolve()), digest=digest)

    def is_same(self, other: "Origin") -> bool:
        """Whether both are one source."""
        return self.digest == other.digest or (self.path is not None and self.path == other.path)

    def __str__(self) -> str:
        return self.path or f"SHA-256 {self.digest[:12]}"


class Subject(Closed):
    """What a command's results are about."""

    command: str
    sources: dict[str, Origin]
    """By what they are to the command."""


def claim(out: Path, subject: Subject, results: Iterable[str], known: bool = False) -> None:
    """Record in the folder `out` the inputs of its results, before they are written.

    results: names of files that the command will write. known: results without a note, of an earlier version,
    are known to be about the same. Raises FmctError, which names the existing results,
    if their inputs are others or unknown.
    """
    before = _read(out)
    if before is None and not known:
        held = next((name for name in results if (out / name).exists()), None)
        if held is not None:
            raise FmctError(
                f"{out}: holds {held} already, whose inputs are unknown; give another folder, or move it away"
            )
    if before is not None:
        what = _difference(before, subject)
        if what:
            raise FmctError(f"{out}: holds results of {what}; give another folder, or move them away")
    if before != subject:
        write_text(out / FILE_NAME, subject.model_dump_json(indent=1) + "\n")


def _difference(before: Subject, now: Subject) -> str | None:
    """In what the results there are of something else; None where they are not."""
    if before.command != now.command:
        return f"`fmct {before.command}`"
    for what, source in now.sources.items():
        there = before.sources.get(what)
        if there is None or not there.is_same(source):
            return f"the {what} {there}"
    return None


def _read(out: Path) -> Subject | None:
    try:
        return Subject.model_validate_json((out / FILE_NAME).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise FmctError(f"{out / FILE_NAME}: damaged; give another folder, or move this one away") from None
