"""Names and keys in a foreign dataset do not determine any output path."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_samples import FORMATS, SUFFIXES, make_key, noise, write_dataset
from typer.testing import CliRunner, Result

from launch.cli import built
from shards import Dataset, verify
from shards.errors import FmctError
from shards.format_names import ShardFormat
from shards.index import SIDECAR_SUFFIX
from shards.merge import merge
from shards.names import inside
from shards.schema import VolumeRecord

NAMES = ("../../escaped", "/tmp/escaped", "a/b", "..", ".hidden", "-rf", "a\nb", "a\0b", "", "x" * 300, "ü")
KEYS = ("../runs/first/encoder", "/tmp/escaped", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n", "")


def forge(folder: Path, format: ShardFormat, name: str = "one", **columns: str) -> Path:
    """A hostile dataset: all digests are right, but a name or the values of a column are not."""
    write_dataset(
        folder, format, {"one": {make_key(1): noise((33, 8, 8), 1), make_key(2): noise((8, 8, 8), 2)}}
    )
    document = json.loads((folder / "dataset.json").read_bytes())
    document["shards"][0]["name"] = name
    for table in ("index.parquet", f"one{SIDECAR_SUFFIX}"):
        rows = pq.read_table(folder / table, partitioning=None)
        metadata = dict(rows.schema.metadata or {})
        for column, value in {"shard": name, **columns}.items():
            place = rows.schema.get_field_index(column)
            values = rows[column].to_pylist()
            values[0 if column != "shard" else slice(None)] = (
                value if column != "shard" else [name] * len(rows)
            )
            rows = rows.set_column(
                place, rows.schema.field(place), pa.array(values, rows.schema.field(place).type)
            )
        if metadata:
            shard = json.loads(metadata[b"fmct.shard"]) | {"name": name}
            metadata[b"fmct.shard"] = json.dumps(shard, separators=(",", ":")).encode()
        pq.write_table(rows.replace_schema_metadata(metadata or None), folder / table)
    document["index_sha256"] = sha256(folder / "index.parquet")
    document["sidecar_sha256"] = [sha256(folder / f"one{SIDECAR_SUFFIX}")]
    covered = {k: v for k, v in document.items() if k not in ("index_sha256", "sidecar_sha256", "digest")}
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
    document["digest"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    place_at_name(folder, name, SUFFIXES[format])
    return folder


def place_at_name(folder: Path, name: str, suffix: str) -> None:
    """Put the shard and its index at the path of the name, so that no file is missing."""
    for ending in (suffix, SIDECAR_SUFFIX):
        try:
            target = folder / (name + ending)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.resolve().is_relative_to(folder.parents[1].resolve()):
                target.write_bytes((folder / f"one{ending}").read_bytes())
        except (OSError, ValueError):
            pass  # no file can have that name


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def uses(folder: Path, out: Path) -> list[Callable[[], Result]]:
    other = "webdataset" if (folder / "dataset.json").read_text().count('"zarr"') else "zarr"
    commands = [
        ["shards", "verify", str(folder)],
        ["shards", "info", str(folder)],
        ["shards", "convert", str(folder), "--out", str(out), "--to", other],
        ["shards", "merge", str(folder), "--out", str(out)],
        ["shards", "split", str(folder), "--out", str(out)],
        ["shards", "sample", str(folder), "--out", str(out), "--volumes", "1"],
    ]
    return [partial(CliRunner().invoke, built(words), words, catch_exceptions=True) for words in commands]


@pytest.mark.parametrize("format", FORMATS)
def test_a_forged_dataset_with_unchanged_names_verifies(tmp_path: Path, format: ShardFormat) -> None:
    """The other tests' datasets are thus refused only for their names."""
    folder = forge(tmp_path / "in" / "data", format)
    assert verify(folder) == []
    assert len(Dataset.open(folder)) == 2


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_a_shard_name_with_a_path_is_refused(tmp_path: Path, format: ShardFormat, name: str) -> None:
    refused_by_all(forge(tmp_path / "in" / "data", format, name), tmp_path)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("column", ["key", "patient_key", "study_key"])
@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_is_not_a_pseudonym_is_refused(
    tmp_path: Path, format: ShardFormat, column: str, key: str
) -> None:
    refused_by_all(forge(tmp_path / "in" / "data", format, **{column: key}), tmp_path)


def refused_by_all(folder: Path, place: Path) -> None:
    out = place / "elsewhere" / "deep" / "out"
    before = tree(place)
    for use in uses(folder, out):
        result = use()
        assert isinstance(result.exception, FmctError), (result.output, result.exception)
    assert {file: content for file, content in tree(place).items() if "/.lock" not in file} == before


def test_a_shard_named_differently_from_its_index_is_refused(tmp_path: Path) -> None:
    """`fmct preprocess --collect` joins only the indexes of the requested names."""
    folder = forge(tmp_path / "in" / "data", "zarr", "two")
    (folder / f"one{SIDECAR_SUFFIX}").unlink()
    (folder / "dataset.json").unlink()
    (folder / f"two{SIDECAR_SUFFIX}").rename(folder / f"one{SIDECAR_SUFFIX}")
    from shards import finish_dataset

    with pytest.raises(FmctError, match="another shard"):
        finish_dataset(folder, "zarr", ["one"])


def test_merging_replaces_a_link_without_following_it(tmp_path: Path) -> None:
    folder = forge(tmp_path / "in" / "data", "zarr")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("dataset.json", "index.parquet", f"one{SIDECAR_SUFFIX}"):
        (out / name).symlink_to(victim)
    (out / "dataset.json").unlink()
    merge([folder], out)
    assert victim.read_text() == "mine"
    assert verify(out) == []


@pytest.mark.parametrize("name", NAMES)
def test_only_plain_names_become_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(FmctError):
        inside(tmp_path, name)


def test_every_name_in_a_record_is_validated() -> None:
    """A new field must be validated, or listed here as text that does not become a path."""
    free = {"dtype", "affine", "shape", "spacing_mm", "crc32", "facts", "role", "rank"}
    schema = VolumeRecord.model_json_schema()["properties"]
    assert {name for name, of in schema.items() if "pattern" not in of} == free
