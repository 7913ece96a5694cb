"""Files that a newer version wrote: they hold keys that this one does not know, and are refused as such."""

from pathlib import Path

from pydantic import ValidationError

from shards.errors import FmctError


def newer(what: Path | str, error: Exception) -> FmctError | None:
    """The refusal of a file, or of what else was read, that has an unknown key; None for other faults."""
    if not isinstance(error, ValidationError):
        return None
    details = error.errors(include_url=False)
    unknown = [detail["loc"] for detail in details if detail["type"] == "extra_forbidden"]
    if not unknown:
        return None
    from importlib.metadata import version  # which imports much

    key = ".".join(str(part) for part in unknown[0])[:80]
    return FmctError(
        f"{what}: has {key!r}, which fmct-hpc {version('fmct-hpc')} does not know; use the version that "
        "wrote it, or a newer one"
    )


def unread(what: Path | str, error: Exception, otherwise: str) -> FmctError:
    """The error for a file that cannot be read; `otherwise` is the message if it is not newer."""
    return newer(what, error) or FmctError(f"{what}: {otherwise}")
