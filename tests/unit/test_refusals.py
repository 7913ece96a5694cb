"""System errors are reported as such and not treated as damage."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from restricted import outcome
from shard_samples import FORMATS, make_key, noise, write_dataset
from small_training import small_config, small_encoder
from small_training import write_dataset as small_training_dataset

from fmct_hpc.data.cache import open_dataset
from fmct_hpc.data.order import Order, Share
from fmct_hpc.data.source import ViewSource
from fmct_hpc.inference.write import of_path
from fmct_hpc.probe import store
from fmct_hpc.probe.labels import LabelTable
from fmct_hpc.train import checkpoint
from fmct_hpc.train.checkpoint import FileFacts, Manifest, checkpoint_path, file_facts
from fmct_hpc.train.export import load_encoder
from launch.jobs.causes import by_code
from launch.slurm.scheduler import Slurm
from preprocess.scan.findings import unreadable
from shards import Dataset, finish_dataset, verify
from shards.errors import FmctError, UnavailableError, refusal
from shards.index import read_sidecar
from shards.info import read_preprocessing
from shards.verification import Unread


def closed(path: Path) -> Path:
    path.chmod(0)
    return path


@pytest.fixture(params=FORMATS)
def dataset(tmp_path: Path, request: pytest.FixtureRequest) -> Dataset:
    volumes = {make_key(number): noise((40, 33, 35), number) for number in range(4)}
    write_dataset(tmp_path / "data", request.param, {"a": volumes})
    opened = Dataset.open(tmp_path / "data")
    opened.read(0)  # compiled before permissions are dropped
    return opened


def source(dataset: Dataset) -> ViewSource:
    config = small_config(dataset.path, data={"damaged": "skip"}).data
    return ViewSource(open_dataset(config), config, Share(Order.of(dataset, 0, 2), 0, 1, 1), 0)


def test_a_volume_without_read_permission_is_neither_damaged_nor_skipped(dataset: Dataset) -> None:
    shard = closed(dataset.shard_file(0))
    for work in (lambda: dataset.read(0), lambda: source(dataset).batch(0, [0])):
        assert outcome(work).startswith(f"RefusedError: {shard}: permission denied")
    problems = []

    def check() -> None:
        problems.extend(verify(dataset.path))
        assert [type(problem) for problem in problems] == [Unread], problems

    assert outcome(check) == "done"


def test_the_limit_of_open_files_is_not_damage(dataset: Dataset) -> None:
    views = source(dataset)
    reads: list[Callable[[], object]] = [lambda: dataset.read(0), lambda: views.batch(0, [0])]
    for work in reads:
        message = outcome(work, open_files=0)
        assert message.startswith(f"UnavailableError: {dataset.shard_file(0)}: too many open files"), message
    sidecar = dataset.path / "a.index.parquet"
    message = outcome(lambda: read_sidecar(sidecar, dataset.info.format), open_files=0)
    assert message.startswith(f"UnavailableError: {sidecar}: too many open files")


def test_damage_is_still_skipped(dataset: Dataset) -> None:
    views = source(dataset)
    (_,), (index,) = views.share.order.at(np.array([0]))
    row = dataset.index.slice(int(index), 1).to_pylist()[0]
    file = dataset.shard_file(0)
    stored = bytearray(file.read_bytes())
    stored[row["offset"] + row["length"] // 2] ^= 1
    file.write_bytes(stored)
    [sample] = views.batch(0, [0])
    assert sample.skipped.tolist() == [index]
    assert not [problem for problem in verify(dataset.path) if isinstance(problem, Unread)]


def test_files_beside_the_volumes_are_refused_by_name(dataset: Dataset) -> None:
    preprocessing = dataset.path / "preprocessing.json"
    preprocessing.write_text("{}")
    message = outcome(lambda: (closed(preprocessing), read_preprocessing(dataset.path, "")))
    assert message.startswith("PermissionError") or message.startswith(f"RefusedError: {preprocessing}")
    sidecar = closed(dataset.path / "a.index.parquet")
    for work in (
        lambda: read_sidecar(sidecar, dataset.info.format),
        lambda: finish_dataset(dataset.path, dataset.info.format, ["a"]),
    ):
        assert outcome(work).startswith(f"RefusedError: {sidecar}: permission denied")


def whole_checkpoint(run: Path, step: int) -> Path:
    """Write a valid checkpoint; returns its only part."""
    part = checkpoint_path(run, step) / checkpoint.part_name(0)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"weights")
    facts = file_facts(part)
    assert facts
    manifest = manifest_of(step, {part.name: facts}).sealed()
    (part.parent / checkpoint.MANIFEST).write_text(manifest.model_dump_json())
    return part


def manifest_of(step: int, files: dict[str, FileFacts]) -> Manifest:
    data = checkpoint.DataFacts(
        content_digest="c" * 64,
        dataset_digest="d" * 64,
        preprocess_digest="e" * 64,
        spacing_mm=(1.0, 1.0, 1.0),
        shards_digest="f" * 64,
    )
    return Manifest(
        step=step,
        updates=step,
        world_size=1,
        zero_stage=1,
        configuration={},
        versions={},
        data=data,
        files=files,
    )


@pytest.mark.parametrize("case", ["part", "manifest", "checkpoint", "all"])
def test_a_run_does_not_skip_a_checkpoint_without_read_permission(tmp_path: Path, case: str) -> None:
    whole_checkpoint(tmp_path, 10)
    part = whole_checkpoint(tmp_path, 20)
    folder = part.parent
    place = {
        "part": part,
        "manifest": folder / checkpoint.MANIFEST,
        "checkpoint": folder,
        "all": folder.parent,
    }
    path = closed(place[case])
    message = outcome(lambda: checkpoint.newest(tmp_path))
    assert message.startswith(("RefusedError", "PermissionError")), message
    assert str(path) in message
    outcome(lambda: checkpoint.set_damaged_aside(tmp_path, 10))
    path.chmod(0o755)
    assert checkpoint.newest_step(tmp_path) == 20


def test_the_limit_of_open_files_marks_no_checkpoint_as_damaged(tmp_path: Path) -> None:
    whole_checkpoint(tmp_path, 10)
    whole_checkpoint(tmp_path, 20)
    for left in range(3):
        message = outcome(lambda: checkpoint.newest(tmp_path), open_files=left)
        assert message.startswith(("UnavailableError", "OSError: [Errno 24]", "done")), message
        outcome(lambda: checkpoint.set_damaged_aside(tmp_path, 10), open_files=left)
    assert checkpoint.newest_step(tmp_path) == 20


def test_unreadable_features_labels_and_weights_are_not_remade(tmp_path: Path) -> None:
    request = store.FeatureRequest(
        encoder_digest="a" * 64,
        dataset_digest="b" * 64,
        keys_digest="c" * 64,
        layers=(0,),
        poolings=("cls",),
        tokens=False,
    )
    part = store.part_path(tmp_path, request, 0, 1)
    part.parent.mkdir(parents=True)
    store.write_part(part, request, {"layer-00.cls": np.zeros((1, 2), np.float32)}, 1)
    assert store.part_is_done(part, request)
    marker = closed(part.with_suffix(".json"))
    assert outcome(lambda: store.part_is_done(part, request)).startswith("RefusedError")
    marker.unlink()
    assert not store.part_is_done(part, request)

    closed_file = tmp_path / "features.json"
    closed_file.write_text("{}")
    closed(closed_file)
    data = small_training_dataset(tmp_path / "data")
    encoder = closed(small_encoder(data, tmp_path / "encoder"))
    table = tmp_path / "labels.parquet"
    shutil.copy(data / "index.parquet", table)
    closed(table)
    reads: dict[Path, Callable[[], object]] = {
        closed_file: lambda: store.FeatureStore.open(tmp_path),
        encoder: lambda: load_encoder(encoder),
        table: lambda: LabelTable.read(table),
    }
    for path, work in reads.items():
        assert outcome(work).startswith(f"RefusedError: {path}: permission denied"), outcome(work)
    message = outcome(lambda: store.held(tmp_path, "a" * 64, "b" * 64, ("cls",)))
    assert message.startswith(f"RefusedError: {closed_file}")


def test_a_scan_that_runs_out_of_open_files_ends_and_rejects_nothing(tmp_path: Path) -> None:
    for number, kind in ((errno.EMFILE, UnavailableError), (errno.ENOMEM, UnavailableError)):
        with pytest.raises(kind):
            unreadable(OSError(number, os.strerror(number), str(tmp_path)))
    for number in (errno.EACCES, errno.EIO, errno.ESTALE):  # only this file; the others are read
        assert unreadable(OSError(number, os.strerror(number), str(tmp_path))).detail == os.strerror(number)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM, errno.ENOTCONN])
def test_machine_failures_are_retried_by_the_launcher(number: int) -> None:
    error = refusal(OSError(number, os.strerror(number), "/some/file"))
    assert isinstance(error, UnavailableError)
    assert str(error).startswith("/some/file: ")
    assert by_code(error.exit_code, "", Slurm()).cause == "crash", "which the restart policy retries"
    assert isinstance(refusal(MemoryError("of 3 GiB")), UnavailableError)


def test_a_missing_temporary_folder_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    with pytest.raises(FileNotFoundError) as caught:
        tempfile.mkdtemp()
    assert "TMPDIR" in str(refusal(caught.value))
    monkeypatch.setenv("MPLCONFIGDIR", "/proc/nowhere")
    with pytest.raises(OSError, match="Matplotlib") as caught_too:
        vars(matplotlib)["_get_config_or_cache_dir"](lambda: "/proc/nowhere")
    assert "TMPDIR" in str(refusal(caught_too.value))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("{}: damaged", "path 3: damaged"),
        ("{}/index.parquet: not there", "path 3: index.parquet: not there"),
        ("volumes of {} were made otherwise", "path 3: volumes of it were made otherwise"),
    ],
)
def test_refused_paths_are_named_by_their_number(message: str, expected: str, tmp_path: Path) -> None:
    def scans() -> Iterator[None]:
        raise FmctError(message.format(tmp_path))
        yield

    with pytest.raises(FmctError) as refused:
        list(of_path(3, tmp_path, scans()))
    assert str(refused.value) == expected
