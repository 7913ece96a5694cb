"""docs/formats.md: its tables match the code, and a reader written from its text reads a dataset."""

import hashlib
import json
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numcodecs import blosc, zstd
from shard_samples import FORMATS, SUFFIXES, make_key, make_record, noise, write_dataset

from fmct_hpc.probe.sweep.tables import COMPARISONS, PREDICTIONS, RESULTS
from preprocess.privacy.deidentify import Pseudonymizer, new_key
from shards import FORMAT_VERSION, Dataset, DatasetInfo, DecodeFacts, VolumeRecord, index
from shards.format_names import ShardFormat
from shards.info import ShardInfo

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
VOLUMES = {
    "b": {make_key(1): noise((40, 33, 70), 1)},
    "a": {
        make_key(2): np.random.default_rng(2).integers(-32768, 32768, (5, 6, 7), np.int16),
        make_key(3): np.full((33, 4, 5), -1024, np.int16),
    },
}
"""Shard a has uncompressed streams and a volume without any chunk."""


def table_after(heading: str) -> list[list[str]]:
    """The cells of the first table after a line of the document."""
    lines = TEXT[TEXT.index(f"\n{heading}\n") :].splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def documented(type: pa.DataType) -> str:
    if pa.types.is_dictionary(type):
        return "string (dictionary)"
    if pa.types.is_fixed_size_list(type):
        return f"{documented(type.value_type)}[{type.list_size}]"
    return {"double": "float64"}.get(str(type), str(type))


def test_the_tables_of_fields_match_the_code() -> None:
    for heading, model in (("## The record of a volume", VolumeRecord), ("`facts`:", DecodeFacts)):
        rows = table_after(heading)
        assert [row[0] for row in rows] == [f"`{name}`" for name in model.model_fields]
        for (name, field), row in zip(model.model_fields.items(), rows, strict=True):
            if name != "facts":
                assert row[1] == documented(index.STUDY_SCHEMA.field(name).type), name
                assert row[2] == (field.description or "always `int16`")
    last = table_after("### index.parquet and the sidecars")
    assert [row[:2] for row in last] == [
        [f"`{name}`", documented(index.SCHEMA.field(name).type)] for name in index.SCHEMA.names[-3:]
    ]
    fields = [*VolumeRecord.model_fields]
    order = [*fields[: fields.index("facts")], *DecodeFacts.model_fields, "shard", "offset", "length"]
    assert index.SCHEMA.names == order
    assert index.STUDY_SCHEMA.names == [*order, *fields[fields.index("facts") + 1 :]]
    json_rows = table_after("### dataset.json")
    assert [row[0] for row in json_rows] == [f"`{name}`" for name in DatasetInfo.model_fields]
    (shards,) = (row[2] for row in json_rows if row[0] == "`shards`")
    assert re.findall(r"`(\w+)`", shards) == list(ShardInfo.model_fields)
    assert f"This is version {FORMAT_VERSION};" in TEXT


def blosc_chunk(stored: bytes) -> np.ndarray:
    """An inner chunk decoded by the document's table, with zstd and without blosc."""
    assert google_crc32c.value(stored[:-4]) == struct.unpack("<I", stored[-4:])[0]
    stored = stored[:-4]
    assert stored[:4] == bytes([2, 1, 0x81, 2])
    assert struct.unpack("<4I", stored[4:20]) == (65536, 65536, len(stored), 20)
    streams, at = [], 20
    for _ in range(2):
        (length,) = struct.unpack_from("<I", stored, at)
        stream = stored[at + 4 : at + 4 + length]
        streams.append(stream if length == 32768 else zstd.decompress(stream))
        at += 4 + length
    assert at == len(stored)
    low, high = (np.frombuffer(stream, np.uint8).astype(np.uint16) for stream in streams)
    return (low | high << 8).view(np.int16).reshape(32, 32, 32)


def sharding_object(stored: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    grid = tuple(-(-size // 32) for size in shape)
    index_bytes = stored[-16 * int(np.prod(grid)) - 4 :]
    assert google_crc32c.value(index_bytes[:-4]) == struct.unpack("<I", index_bytes[-4:])[0]
    places = np.frombuffer(index_bytes[:-4], "<u8").reshape(*grid, 2)
    padded = np.full([32 * n for n in grid], -1024, np.int16)
    end = 0
    for cell in np.ndindex(*grid):
        offset, length = (int(value) for value in places[cell])
        if offset == length == 2**64 - 1:
            continue
        assert offset == end  # chunks are in C order
        end = offset + length
        block = blosc_chunk(stored[offset:end])
        assert (block != -1024).any()
        padded[tuple(slice(32 * c, 32 * c + 32) for c in cell)] = block
    assert end == len(stored) - len(index_bytes)
    outside = np.ones(padded.shape, bool)
    outside[tuple(slice(0, size) for size in shape)] = False
    assert (padded[outside] == -1024).all()
    return padded[tuple(slice(0, size) for size in shape)]


@pytest.mark.parametrize("format", FORMATS)
def test_a_reader_written_from_the_document_reads_a_dataset(tmp_path: Path, format: ShardFormat) -> None:
    write_dataset(tmp_path, format, VOLUMES)
    text = (tmp_path / "dataset.json").read_text()
    info = json.loads(text)
    assert text == json.dumps(info, indent=1) + "\n"
    identity = {k: v for k, v in info.items() if k not in ("index_sha256", "sidecar_sha256", "digest")}
    compact = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    assert info["digest"] == hashlib.sha256(compact.encode()).hexdigest()
    assert info["index_sha256"] == hashlib.sha256((tmp_path / "index.parquet").read_bytes()).hexdigest()
    rows = pq.read_table(tmp_path / "index.parquet").to_pylist()
    assert [row["key"] for row in rows] == [make_key(n) for n in (2, 3, 1)]
    lines = [f"{row['key']} {row['crc32']:08x}" for row in rows]
    lines += [str(shard["volumes"]) for shard in info["shards"]]
    content = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert content == Dataset.open(tmp_path).content_digest()
    for shard, sidecar_sha256 in zip(info["shards"], info["sidecar_sha256"], strict=True):
        sidecar = tmp_path / f"{shard['name']}.index.parquet"
        assert sidecar_sha256 == hashlib.sha256(sidecar.read_bytes()).hexdigest()
        metadata = pq.read_schema(sidecar).metadata
        assert json.loads(metadata[b"fmct.shard"]) == shard
        assert metadata[b"fmct.format"] == f"{format} 1".encode()
        assert pq.read_table(sidecar).to_pylist() == [r for r in rows if r["shard"] == shard["name"]]
        whole = (tmp_path / (shard["name"] + SUFFIXES[format])).read_bytes()
        assert (len(whole), hashlib.sha256(whole).hexdigest()) == (shard["bytes"], shard["sha256"])
    for row in rows:
        voxels = VOLUMES[row["shard"]][row["key"]]
        with (tmp_path / (row["shard"] + SUFFIXES[format])).open("rb") as stream:
            stream.seek(row["offset"])
            stored = stream.read(row["length"])
        if format == "zarr":
            read = sharding_object(stored, tuple(row["shape"]))
        else:
            read = np.frombuffer(blosc.decompress(stored), "<i2").reshape(row["shape"])
        np.testing.assert_array_equal(read, voxels)
        assert row["crc32"] == zlib.crc32(read.tobytes())


def test_the_zip_is_laid_out_as_documented(tmp_path: Path) -> None:
    write_dataset(tmp_path, "zarr", VOLUMES)
    with zipfile.ZipFile(tmp_path / "a.zarr.zip") as archive:
        keys = list(VOLUMES["a"])
        names = ["zarr.json", *(f"{key}/{name}" for key in keys for name in ("zarr.json", "c/0/0/0"))]
        assert archive.namelist() == names
        for entry in archive.infolist():
            assert (entry.compress_type, entry.date_time) == (zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))
        assert json.loads(archive.read("zarr.json"))["attributes"] == {"fmct_format_version": 1}
        array = json.loads(archive.read(f"{keys[0]}/zarr.json"))
    assert (array["fill_value"], array["dimension_names"]) == (-1024, ["z", "y", "x"])
    assert array["chunk_grid"]["configuration"]["chunk_shape"] == [32, 32, 32]
    (codec,) = array["codecs"]
    assert codec["name"] == "sharding_indexed"
    assert codec["configuration"]["index_location"] == "end"
    inner = codec["configuration"]["codecs"]
    assert [one["name"] for one in inner] == ["bytes", "blosc", "crc32c"]
    settings = inner[1]["configuration"]
    assert (settings["cname"], settings["shuffle"]) == ("zstd", "shuffle")
    assert (settings["typesize"], settings["blocksize"]) == (2, 65536)
    assert array["attributes"] == make_record(VOLUMES["a"][keys[0]], keys[0]).model_dump(mode="json")


def test_the_tar_is_laid_out_as_documented(tmp_path: Path) -> None:
    write_dataset(tmp_path, "webdataset", VOLUMES)
    file = tmp_path / "a.tar"
    assert file.stat().st_size % 10240 == 0
    with tarfile.open(file) as archive:
        members = archive.getmembers()
        keys = list(VOLUMES["a"])
        assert [one.name for one in members] == [f"{k}{end}" for k in keys for end in (".vol.blosc", ".json")]
        for one in members:
            assert (one.mode, one.uid, one.gid, one.mtime, one.uname) == (0o644, 0, 0, 0, "")
        stored, record = (file.read() for file in map(archive.extractfile, members[:2]) if file is not None)
    assert file.read_bytes()[257:263] == b"ustar\0"
    assert blosc._cbuffer_metainfo(stored)[:2] == (2, 2)  # typesize, bit shuffle
    assert blosc.cbuffer_complib(stored) == "Zstd"
    assert blosc._cbuffer_sizes(stored)[2] <= 2**20
    assert json.loads(record) == make_record(VOLUMES["a"][keys[0]], keys[0]).model_dump(mode="json")
    assert b" " not in record


def test_keys_are_the_documented_hmacs(tmp_path: Path) -> None:
    import hmac

    new_key(tmp_path / "key")
    secret = bytes.fromhex((tmp_path / "key").read_text().strip())
    names = Pseudonymizer(tmp_path / "key")

    def keyed(*parts: str) -> str:
        return hmac.new(secret, "\0".join(parts).encode(), "sha256").hexdigest()[:32]

    domains = {row[0]: re.findall(r"`([a-z ]+)`,", row[1]) for row in table_after("### Keys")}
    patient, of_study = domains["`patient_key`"]
    assert names.patient("P1", "1.2") == keyed(patient, "P1")
    assert names.patient("", "1.2") == keyed(of_study, "1.2")
    assert names.study("1.2") == keyed(*domains["`study_key`"], "1.2")
    assert names.series("P1", "1.2", "1.2.3") == keyed(*domains["`key`"], "P1", "1.2", "1.2.3")


def test_every_column_of_the_probes_tables_is_described() -> None:
    text = TEXT[TEXT.index("## Results of probes") :]
    described = [
        name for row in table_after("## Results of probes") for name in re.findall(r"`(\w+)`", row[0])
    ]
    assert described == RESULTS.names
    for schema in (PREDICTIONS, COMPARISONS):
        # Whole runs of columns are named by their first and last.
        between = RESULTS.names[: RESULTS.names.index("split") + 1]
        assert all(f"`{name}`" in text or name in between for name in schema.names)
