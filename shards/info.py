"""dataset.json: the contents of a dataset directory, with digests to check them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt

from shards import json_text
from shards.atomic import write_text
from shards.closed import Closed
from shards.errors import FmctError, raise_refusal
from shards.format_names import ShardFormat
from shards.names import Component, Sha256
from shards.newer_version import newer_version_error
from shards.schema import FORMAT_VERSION, Edge

FILE_NAME = "dataset.json"
INDEX_NAME = "index.parquet"
PREPROCESSING_NAME = "preprocessing.json"


class ShardInfo(Closed):
    """One shard file."""

    name: Component = Field(description="file name without the format's suffix")
    volumes: NonNegativeInt
    bytes: NonNegativeInt = Field(description="size of the file")
    sha256: Sha256 = Field(description="of the file")


class DatasetInfo(Closed):
    """A finished dataset; all of its volumes share format, spacing and preprocessing."""

    format_version: int = FORMAT_VERSION
    format: ShardFormat
    spacing_mm: tuple[Edge, Edge, Edge] = Field(description="(D, H, W) mm")
    config_digest: Sha256 = Field(description="SHA-256 of the preprocessing configuration")
    clipped_hu: tuple[int, int] | None = Field(
        default=None, description="HU below and above which voxels were clipped; not there: none were"
    )
    volumes: int
    bytes: int = Field(description="size of all shard files")
    shards: tuple[ShardInfo, ...] = Field(description="ordered by name")
    index_sha256: Sha256 = Field(description="of index.parquet")
    sidecar_sha256: tuple[Sha256, ...] = Field(description="of each shard's sidecar index, in their order")
    digest: str = Field(
        default="", description="SHA-256 of all above but the indexes': what identifies the data"
    )

    def compute_digest(self) -> str:
        """What `digest` must be: over compact JSON with sorted keys."""
        indexes = {"index_sha256", "sidecar_sha256", "digest"}
        fields = self.model_dump(mode="json", exclude=indexes, exclude_none=True)
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def write(info: DatasetInfo, directory: Path) -> None:
    """Write dataset.json atomically: from now on the directory is a dataset."""
    write_text(directory / FILE_NAME, _to_json(info))


def _to_json(info: DatasetInfo) -> str:
    return info.model_dump_json(indent=1, exclude_none=True) + "\n"


def read(directory: Path) -> DatasetInfo:
    """Read dataset.json; FmctError if it is missing, damaged or of another version."""
    path = directory / FILE_NAME
    if not directory.is_dir():
        raise FmctError(f"{directory}: not a directory; give the one that holds {FILE_NAME}")
    if not path.is_file():
        inside = [str(child) for child in sorted(directory.iterdir()) if (child / FILE_NAME).is_file()]
        remedy = f"give {' or '.join(inside)}" if inside else "complete `fmct preprocess` first"
        raise FmctError(f"{directory} holds no {FILE_NAME}: {remedy}")
    try:
        stored = path.read_bytes()
        document = json_text.parse(stored)
        if not isinstance(document, dict) or "format_version" not in document:
            raise FmctError(f"{path}: not written by this package; give a folder made by `fmct preprocess`")
        version = document["format_version"]
        if version != FORMAT_VERSION:
            remedy = (
                f"this fmct reads version {FORMAT_VERSION}: preprocess again or use the version that wrote it"
            )
            raise FmctError(f"{path} has format version {version}; {remedy}")
        info = DatasetInfo.model_validate(document)
        damaged = info.digest != info.compute_digest() or stored != _to_json(info).encode()
    except (ValueError, TypeError, KeyError) as error:
        if refusal := newer_version_error(path, error):
            raise refusal from None
        damaged = True
    if damaged:
        raise FmctError(f"{path} is damaged; restore it or rerun `fmct preprocess --collect`")
    return info


def write_preprocessing(document: Mapping[str, Any], directory: Path) -> None:
    """Store the configuration that made the volumes; its `preprocessing_digest` is their config_digest."""
    write_text(directory / PREPROCESSING_NAME, json.dumps(document, indent=1) + "\n")


def require_preprocessing(directory: Path, config_digest: str) -> None:
    """Raise FmctError unless the configuration of that digest is stored, or the volumes have none.

    Later steps read it: training copies it into the encoder, which preprocesses new scans with it.
    """
    if read_preprocessing(directory, config_digest) is None and config_digest != NO_CONFIGURATION:
        raise FmctError(
            f"{directory / PREPROCESSING_NAME} is missing: it holds the configuration that made the volumes "
            f"({FILE_NAME}'s config_digest); restore it or rerun `fmct preprocess --collect`"
        )


def read_preprocessing(directory: Path, config_digest: str) -> dict[str, Any] | None:
    """Read the document of `write_preprocessing`; None if there is no such file.

    Raises FmctError if it is not the configuration of that digest.
    """
    path = directory / PREPROCESSING_NAME
    try:
        document = json_text.parse(path.read_bytes())
        damaged = preprocessing_digest(document) != config_digest
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise_refusal(error, path)
        damaged = True
    if damaged:
        raise FmctError(
            f"{path} is not the configuration that made the volumes (its SHA-256 is not {FILE_NAME}'s "
            "config_digest); restore it or rerun `fmct preprocess --collect`"
        )
    return dict(document)


def preprocessing_digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of the concatenated sections of a configuration, each as compact JSON."""
    sections = (
        json.dumps(section, separators=(",", ":"), ensure_ascii=False) for section in document.values()
    )
    return hashlib.sha256("".join(sections).encode()).hexdigest()


NO_CONFIGURATION = preprocessing_digest({})
"""The config_digest of volumes made without a configuration: only they need no preprocessing.json."""


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
