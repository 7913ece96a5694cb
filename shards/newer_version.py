"""Files of newer versions: they hold unknown keys, and the error says so."""

from pathlib import Path

from pydantic import ValidationError

from shards.errors import FmctError


def newer_version_error(what: Path | str, error: Exception) -> FmctError | None:
    """The error for a file or record with an unknown key; None for other errors."""
    if not isinstance(error, ValidationError):
        return None
    details = error.errors(include_url=False)
    unknown = [detail["loc"] for detail in details if detail["type"] == "extra_forbidden"]
    if not unknown:
        return None
    from importlib.metadata import version  # slow to import

    key = ".".join(str(part) for part in unknown[0])[:80]
    return FmctError(
        f"{what}: has {key!r}, unknown to fmct-hpc {version('fmct-hpc')}; use the version that wrote it, "
        "or a newer one"
    )


def read_error(what: Path | str, error: Exception, otherwise: str) -> FmctError:
    """The error for a file that cannot be read; `otherwise`: the message unless a newer version wrote it."""
    return newer_version_error(what, error) or FmctError(f"{what}: {otherwise}")
