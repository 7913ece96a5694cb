"""Derived datasets: the same volumes, undivided patients, complete files."""

import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from shard_samples import (
    FORMATS,
    PREPROCESSING,
    SUFFIXES,
    make_key,
    make_record,
    noise,
    write_dataset,
    write_shard,
)
from typer.testing import CliRunner

from launch.commands.shards import shards_app
from shards import Dataset, FmctError, ShardWriter, finish_dataset, verify
from shards.derive import convert
from shards.dump import dump
from shards.format_names import ShardFormat
from shards.merge import merge
from shards.schema import VolumeRecord
from shards.split import assign, reshard, sample, split
from shards.writer import ShardWriter as Writer

OTHER: dict[ShardFormat, ShardFormat] = {"zarr": "webdataset", "webdataset": "zarr"}
SHARDS = {
    "a": {make_key(n): noise((20 + n, 33, 40), n) for n in (3, 1)},
    "b": {make_key(n): noise((9, 8, 7), n) for n in (7, 5, 6)},
}


def volumes(path: Path) -> dict[str, tuple[object, bytes]]:
    dataset = Dataset.open(path)
    assert verify(path) == []
    return {
        dataset.record(i).key: (dataset.record(i), dataset.read(i).tobytes()) for i in range(len(dataset))
    }


def shard_bytes(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if not file.name.startswith(".")}


def many_patients(path: Path, patients: int, each: int = 2) -> Dataset:
    voxels = noise((4, 5, 6), 0)
    with ShardWriter(path, "s", "zarr") as shard:
        for n in range(patients * each):
            shard.add(make_record(voxels, make_key(n), patient_key=make_key(1000 + n % patients)), voxels)
    finish_dataset(path, "zarr", ["s"])
    return Dataset.open(path)


@pytest.mark.parametrize("format", FORMATS)
def test_converting_there_and_back_gives_the_same_bytes(tmp_path: Path, format: ShardFormat) -> None:
    write_dataset(tmp_path / "one", format, SHARDS)
    convert(tmp_path / "one", tmp_path / "other", OTHER[format], workers=2)
    convert(tmp_path / "other", tmp_path / "back", format)
    assert volumes(tmp_path / "one") == volumes(tmp_path / "other")
    digests = {Dataset.open(tmp_path / name).content_digest() for name in ("one", "other", "back")}
    assert len(digests) == 1
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "back")
    with pytest.raises(FmctError, match=f"already .*{format}"):
        convert(tmp_path / "one", tmp_path / "more", format)


def test_an_interrupted_conversion_resumes_and_is_no_dataset_until_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "one", "zarr", SHARDS)
    convert(tmp_path / "one", tmp_path / "whole", "webdataset")
    add = Writer.add
    written: list[VolumeRecord] = []

    def dies_at_the_fourth(self: Writer, record: VolumeRecord, *others: Any) -> None:
        written.append(record)
        if len(written) == 4:
            raise KeyboardInterrupt
        add(self, record, *others)

    monkeypatch.setattr(Writer, "add", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "one", tmp_path / "out", "webdataset")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"a.tar", "a.index.parquet"}
    convert(tmp_path / "one", tmp_path / "out", "webdataset")
    assert len(written) == 4 + 3  # the first shard's two volumes were kept
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


def test_a_shard_of_other_volumes_in_an_unfinished_folder_is_rewritten(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", "zarr", SHARDS)
    write_shard(tmp_path / "out", "a", "webdataset", {make_key(8): noise((3, 3, 3), 8)})
    convert(tmp_path / "one", tmp_path / "out", "webdataset")
    assert volumes(tmp_path / "out") == volumes(tmp_path / "one")


def test_a_folder_with_other_shards_is_refused_and_unchanged(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", "zarr", SHARDS)
    write_dataset(tmp_path / "out", "zarr", {"mine": {make_key(8): noise((3, 3, 3), 8)}})
    before = shard_bytes(tmp_path / "out")
    each: tuple[Callable[[], object], ...] = (
        lambda: convert(tmp_path / "one", tmp_path / "out", "webdataset"),
        lambda: merge([tmp_path / "one"], tmp_path / "out"),
        lambda: sample(tmp_path / "one", tmp_path / "out", 2),
    )
    for make in each:
        with pytest.raises(FmctError, match=r"mine\.zarr\.zip.*empty folder"):
            make()
    assert shard_bytes(tmp_path / "out") == before


def test_another_command_does_not_replace_a_finished_dataset(tmp_path: Path) -> None:
    many_patients(tmp_path / "one", 20)
    sample(tmp_path / "one", tmp_path / "out", 5)
    before = shard_bytes(tmp_path / "out")
    each: tuple[Callable[[], object], ...] = (
        lambda: sample(tmp_path / "one", tmp_path / "out", 5, seed=1),
        lambda: reshard(tmp_path / "one", tmp_path / "out"),
        lambda: reshard(tmp_path / "out", tmp_path / "out", 1),
        lambda: merge([tmp_path / "out", tmp_path / "one"], tmp_path / "out"),
    )
    for make in each:
        with pytest.raises(FmctError, match=r"give an empty folder|another folder"):
            make()
        assert shard_bytes(tmp_path / "out") == before
    (tmp_path / "out" / "shard-00000.zarr.zip").unlink()
    sample(tmp_path / "one", tmp_path / "out", 5)  # the same command repairs it
    assert shard_bytes(tmp_path / "out") == before


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_source_is_refused(tmp_path: Path, format: ShardFormat) -> None:
    write_dataset(tmp_path / "one", format, SHARDS)
    file = tmp_path / "one" / ("a" + SUFFIXES[format])
    row = Dataset.open(tmp_path / "one").index.slice(0, 1).to_pylist()[0]
    stored = bytearray(file.read_bytes())
    stored[row["offset"] + row["length"] // 2] ^= 1
    file.write_bytes(stored)
    each: tuple[Callable[[], object], ...] = (
        lambda: convert(tmp_path / "one", tmp_path / "out", OTHER[format]),
        lambda: reshard(tmp_path / "one", tmp_path / "out"),
    )
    for make in each:
        with pytest.raises(FmctError, match=f"{file.name}: volume {make_key(3)}"):
            make()
        assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("linked", [True, False])
def test_merging_joins_the_volumes_without_rewriting(
    tmp_path: Path, format: ShardFormat, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "one", format, SHARDS)
    other = {make_key(n): noise((3, 4, 5), n) for n in (2, 4)}
    write_dataset(tmp_path / "two", format, {"a": other})
    if not linked:

        def refuse(*_: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refuse)
    for _ in range(2):  # repeating it changes nothing
        info = merge([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
        assert [shard.name for shard in info.shards] == ["00-a", "00-b", "01-a"]
        assert volumes(tmp_path / "out") == volumes(tmp_path / "one") | volumes(tmp_path / "two")
        assert not list((tmp_path / "out").glob(".*"))
    name = SUFFIXES[format]
    assert os.path.samefile(tmp_path / "one" / f"b{name}", tmp_path / "out" / f"00-b{name}") == linked
    shutil.rmtree(tmp_path / "one")
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize("absolute", [True, False])
def test_merging_a_folder_of_symbolic_links_copies_their_targets(tmp_path: Path, absolute: bool) -> None:
    write_dataset(tmp_path / "store", "zarr", SHARDS)
    view = tmp_path / "view"
    view.mkdir()
    for file in (tmp_path / "store").iterdir():
        (view / file.name).symlink_to(file if absolute else Path("..") / "store" / file.name)
    merge([view], tmp_path / "out")
    expected = volumes(view)
    shutil.rmtree(tmp_path / "store")
    assert volumes(tmp_path / "out") == expected


@pytest.mark.parametrize("lacks", [0, 1])
def test_the_configuration_is_merged_from_any_source(tmp_path: Path, lacks: int) -> None:
    sources = [tmp_path / "one", tmp_path / "two"]
    for number, source in enumerate(sources):
        write_dataset(source, "zarr", {f"{number}": {make_key(number): noise((3, 4, 5), 1)}}, PREPROCESSING)
    (sources[lacks] / "preprocessing.json").unlink()
    merge(sources, tmp_path / "out")
    convert(tmp_path / "out", tmp_path / "tar", "webdataset")
    for path in (tmp_path / "out", tmp_path / "tar"):
        assert json.loads((path / "preprocessing.json").read_text()) == PREPROCESSING
        assert verify(path) == []


def test_incompatible_datasets_are_not_merged(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", "zarr", SHARDS)
    write_dataset(tmp_path / "tar", "webdataset", {"c": {make_key(9): noise((3, 3, 3), 9)}})
    voxels = noise((3, 3, 3), 9)
    with ShardWriter(tmp_path / "config", "c", "zarr") as shard:
        shard.add(make_record(voxels, make_key(9), config_digest="c" * 64), voxels)
    finish_dataset(tmp_path / "config", "zarr", ["c"])
    write_dataset(tmp_path / "same", "zarr", {"c": {make_key(7): noise((3, 3, 3), 9)}})
    for name, message in (
        ("tar", "format is webdataset, but zarr.*convert"),
        ("config", "config_digest.*one configuration"),
        ("same", f"volume {make_key(7)} is in shards b, c"),
    ):
        with pytest.raises(FmctError, match=message):
            merge([tmp_path / "one", tmp_path / name], tmp_path / f"out-{name}")
        assert not (tmp_path / f"out-{name}" / "dataset.json").exists()


def test_a_split_keeps_patients_whole_and_its_fractions(tmp_path: Path) -> None:
    dataset = many_patients(tmp_path / "one", 400)
    fractions = {"train": 0.7, "val": 0.1, "test": 0.2}
    made = split(tmp_path / "one", tmp_path / "out", fractions, seed=3)
    patients = defaultdict(set)
    for name in fractions:
        part = Dataset.open(tmp_path / "out" / name)
        assert part.info == made[name]
        assert verify(part.path) == []
        patients[name] = set(part.index["patient_key"].to_pylist())
        assert len(part) == 2 * len(patients[name])
        assert abs(len(patients[name]) / 400 - fractions[name]) < 0.07
    assert sum(len(keys) for keys in patients.values()) == 400
    assert set.union(*patients.values()) == set(dataset.index["patient_key"].to_pylist())
    document = json.loads((tmp_path / "out" / "split.json").read_text())
    assert document["fractions"] == fractions
    assert document["digests"]["val"] == made["val"].digest
    assert assign(dataset, fractions, seed=4) != assign(dataset, fractions, seed=3)


def test_a_patients_part_does_not_depend_on_the_others(tmp_path: Path) -> None:
    fractions = {"train": 0.5, "test": 0.5}
    parts = {}
    for size in (20, 60):
        dataset = many_patients(tmp_path / str(size), size)
        patients = dataset.index["patient_key"].to_pylist()
        parts[size] = {
            patients[i]: name for name, members in assign(dataset, fractions, 0).items() for i in members
        }
    assert parts[20].items() <= parts[60].items()


@pytest.mark.parametrize("fractions", [{"a": 0.5, "b": 0.6}, {"a": 1.5, "b": -0.5}, {"a": 1.0, "b": 1e-12}])
def test_invalid_fractions_are_refused(tmp_path: Path, fractions: dict[str, float]) -> None:
    many_patients(tmp_path / "one", 5)
    with pytest.raises(FmctError, match=r"sum to 1|part b has no patients"):
        split(tmp_path / "one", tmp_path / "out", fractions)
    assert not (tmp_path / "out").exists()


def test_parts_are_assigned_as_documented(tmp_path: Path) -> None:
    dataset = many_patients(tmp_path / "one", 40)
    parts = assign(dataset, {"train": 0.25, "test": 0.75}, seed=7)
    for i, patient in enumerate(dataset.index["patient_key"].to_pylist()):
        bits = bin(int(hashlib.sha256(f"7 {patient}".encode()).hexdigest(), 16))[2:].zfill(256)
        assert i in parts["train" if int(bits[:53], 2) / 2**53 < 0.25 else "test"]


def test_shards_of_a_size_hold_the_same_volumes_in_the_same_order(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", "zarr", SHARDS)
    lengths = Dataset.open(tmp_path / "one").index["length"].to_pylist()
    info = reshard(tmp_path / "one", tmp_path / "out", sum(lengths[:2]), workers=2)
    assert [(shard.name, shard.volumes) for shard in info.shards] == [("shard-00000", 2), ("shard-00001", 3)]
    digests = {Dataset.open(tmp_path / name).content_digest() for name in ("one", "out")}
    assert len(digests) == 1
    assert volumes(tmp_path / "one") == volumes(tmp_path / "out")


def test_a_larger_sample_contains_the_smaller_one(tmp_path: Path) -> None:
    many_patients(tmp_path / "one", 30)
    drawn = {}
    for size in (5, 12):
        sample(tmp_path / "one", tmp_path / str(size), size, seed=1)
        drawn[size] = volumes(tmp_path / str(size))
        assert len(drawn[size]) == size
        assert drawn[size].items() <= volumes(tmp_path / "one").items()
    assert drawn[5].keys() < drawn[12].keys()
    with pytest.raises(FmctError, match="60 volumes, not 61"):
        sample(tmp_path / "one", tmp_path / "more", 61)


def test_a_dumped_volume_has_the_position_of_its_affine(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", "zarr", SHARDS)
    key = make_key(3)
    voxels = SHARDS["a"][key]
    affine = np.array(make_record(voxels, key).affine).reshape(4, 4)
    dump(tmp_path / "one", key, tmp_path / "volume.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "volume.npy"), voxels)
    dump(tmp_path / "one", key, tmp_path / "volume.nii.gz")
    image = nibabel.load(tmp_path / "volume.nii.gz")
    assert isinstance(image, nibabel.Nifti1Image)
    assert image.get_data_dtype() == np.int16
    d, h, w = 4, 30, 17
    assert image.dataobj[w, h, d] == voxels[d, h, w]
    lps = affine @ [d, h, w, 1]
    np.testing.assert_allclose(image.affine @ [w, h, d, 1], [-lps[0], -lps[1], lps[2], 1], atol=1e-4)
    for wrong, message in ((tmp_path / "volume.jpg", "end in"), (tmp_path / "v.npy", "no volume")):
        with pytest.raises(FmctError, match=message):
            dump(tmp_path / "one", make_key(99), wrong)
    assert {file.name for file in tmp_path.iterdir()} == {"one", "volume.npy", "volume.nii.gz"}


def test_the_commands_report_their_output(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", "zarr", SHARDS)

    def fmct(*words: object) -> str:
        result = CliRunner().invoke(shards_app, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    output = fmct("info", tmp_path / "one")
    for fact in ("5", "ratio", "1 × 1 × 1 mm", "5 soft", Dataset.open(tmp_path / "one").content_digest()):
        assert fact in output
    assert "all digests match" in fmct("verify", tmp_path / "one", "--workers", 2)
    assert "5 volumes in 2 webdataset" in fmct(
        "convert", tmp_path / "one", "--out", tmp_path / "tar", "--to", "webdataset"
    )
    assert "5 volumes" in fmct("split", tmp_path / "one", "--out", tmp_path / "cut", "--shard-mib", 1)
    assert "2 volumes in 1 zarr" in fmct(
        "sample", tmp_path / "one", "--out", tmp_path / "few", "--volumes", 2
    )
    for wrong, message in (("train", "PART=FRACTION"), ("a/b=1", "letters")):
        with pytest.raises(FmctError, match=message):
            fmct("split", tmp_path / "one", "--out", tmp_path / "parts", wrong)


def test_a_dataset_is_not_derived_onto_itself(tmp_path: Path) -> None:
    one, link = tmp_path / "one", tmp_path / "link"
    write_dataset(one, "zarr", SHARDS)
    link.symlink_to(one)
    before = shard_bytes(one)
    for out in (one, link):
        each: tuple[Callable[[], object], ...] = (
            partial(convert, one, out, "webdataset"),
            partial(merge, [one], out),
            partial(sample, one, out, 5),
            partial(reshard, one, out),
        )
        for made in each:
            with pytest.raises(FmctError, match=r"is the input .*one, which it would replace"):
                made()
    assert shard_bytes(one) == before
