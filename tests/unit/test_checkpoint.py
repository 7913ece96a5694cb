"""Pruning of checkpoints, and slices of tensors in files."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fmct_hpc.train.checkpoint import (
    MANIFEST,
    DataFacts,
    FileFacts,
    Manifest,
    checkpoint_path,
    checkpoints,
    file_facts,
    mark_score,
    newest,
    newest_step,
    part_name,
    prune,
    set_damaged_aside,
    verify,
)
from fmct_hpc.train.pieces import Piece, PieceFiles, whole_piece, write_pieces
from shards import FmctError


def make(run: Path, *steps: int) -> None:
    for step in steps:
        checkpoint_path(run, step).mkdir(parents=True)


def present(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").iterdir() if path.is_dir())


def test_the_last_regular_and_best_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in range(10, 101, 10):
        make(tmp_path, step)
        if step in (20, 70):
            mark_score(checkpoint_path(tmp_path, step), {20: 0.9, 70: 0.8}[step], "AUC")
        prune(tmp_path, step, keep_last=2, keep_every=40)
    assert present(tmp_path) == [20, 40, 80, 90, 100]
    assert not list((tmp_path / "checkpoints").glob("*70*")), "a checkpoint's note is removed with it"


def test_later_damaged_checkpoints_do_not_displace_good_ones(tmp_path: Path) -> None:
    make(tmp_path, 10, 20, 30)  # 20 and 30 were damaged, the run resumed from 10 and saves 15
    make(tmp_path, 15)
    prune(tmp_path, 15, keep_last=1, keep_every=None)
    assert present(tmp_path) == [15, 20, 30]


def test_a_failed_pruning_is_retried_after_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, 10, 20, 30, 40)
    remove = shutil.rmtree

    def held(path: Path) -> None:
        if path.name.endswith("10"):  # another process reads a file: NFS keeps it as .nfs0001
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        remove(path)

    def unreadable(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as nfs:
        nfs.setattr(shutil, "rmtree", held)
        prune(tmp_path, 30, keep_last=1, keep_every=None)
    assert present(tmp_path) == [10, 30, 40]
    assert f"{checkpoint_path(tmp_path, 10)}: can't be removed now" in caplog.text
    mark_score(checkpoint_path(tmp_path, 30), 0.9, "AUC")
    with monkeypatch.context() as nfs:
        nfs.setattr(Path, "read_text", unreadable)
        prune(tmp_path, 40, keep_last=1, keep_every=None)
    assert present(tmp_path) == [10, 30, 40], "the best one is unknown"
    prune(tmp_path, 40, keep_last=1, keep_every=None)
    assert present(tmp_path) == [30, 40]


def make_whole(run: Path, step: int) -> Path:
    """Write a valid checkpoint; returns its only part."""
    make(run, step)
    part = checkpoint_path(run, step) / part_name(0)
    part.write_bytes(b"weights")
    facts = file_facts(part)
    assert facts
    manifest = manifest_of(step, {part.name: facts}).sealed()
    part.with_name(MANIFEST).write_text(manifest.model_dump_json())
    return part


@pytest.mark.parametrize("how", ["flipped", "missing", "no manifest", "half a manifest"])
def test_a_damaged_checkpoint_is_superseded_once_the_run_resumes_before_it(tmp_path: Path, how: str) -> None:
    make_whole(tmp_path, 10)
    for step in (20, 30):
        part = make_whole(tmp_path, step)
        if how == "flipped":
            part.write_bytes(b"Weights")
        elif how == "half a manifest":
            part.with_name(MANIFEST).write_text("{")
        else:
            (part if how == "missing" else part.with_name(MANIFEST)).unlink()
    latest = newest(tmp_path)
    assert latest
    assert newest_step(tmp_path) == 30, "reading renames nothing"
    set_damaged_aside(tmp_path, latest[1].step)
    assert newest_step(tmp_path) == 10
    make(tmp_path, 25)
    prune(tmp_path, 25, keep_last=1, keep_every=None)
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["damaged-step-00000030", "step-00000025"]


@pytest.mark.parametrize("file", [MANIFEST, part_name(0)])
def test_a_temporarily_unreadable_checkpoint_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    make_whole(tmp_path, 10)
    make_whole(tmp_path, 20)
    opened = Path.open

    def broken(path: Path, *arguments: Any, **named: Any) -> object:
        if path == checkpoint_path(tmp_path, 20) / file:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", broken)
    latest = newest(tmp_path)
    assert latest
    assert latest[1].step == 10
    set_damaged_aside(tmp_path, 10)
    assert newest_step(tmp_path) == 20


@pytest.mark.parametrize("writers", [1, 2, 3])
@pytest.mark.parametrize("readers", [1, 2, 5])
def test_a_checkpoint_is_read_by_any_number_of_ranks(tmp_path: Path, writers: int, readers: int) -> None:
    whole = {"a": torch.randn(3, 7), "b": torch.randn(()), "c": torch.arange(2)}
    for rank in range(writers):
        shares = [whole_piece(key, tensor).share(rank, writers) for key, tensor in whole.items()]
        write_pieces(tmp_path / f"rank-{rank}", shares)
    files = PieceFiles(sorted(tmp_path.glob("rank-*")))
    for key, tensor in whole.items():
        assert torch.equal(files.whole(key), tensor)
        flat, size = tensor.reshape(-1), tensor.numel()
        for rank in range(readers):
            start, end = rank * size // readers, (rank + 1) * size // readers
            target = torch.empty(end - start, dtype=tensor.dtype)
            files.fill(Piece(key, tuple(tensor.shape), start, target))
            assert torch.equal(target, flat[start:end])


def test_another_architecture_and_missing_slices_are_named(tmp_path: Path) -> None:
    write_pieces(tmp_path / "rank-0", [whole_piece("weight/x", torch.zeros(4)).share(0, 2)])
    files = PieceFiles([tmp_path / "rank-0"])
    with pytest.raises(FmctError, match=r"weight/x: the checkpoint has \(4,\), the model needs \(5,\)"):
        files.fill(whole_piece("weight/x", torch.zeros(5)))
    with pytest.raises(FmctError, match="weight/y: the checkpoint has none"):
        files.fill(whole_piece("weight/y", torch.zeros(4)))
    with pytest.raises(FmctError, match="only 2 of 4"):
        files.fill(whole_piece("weight/x", torch.zeros(4)))


def manifest_of(step: int, files: dict[str, FileFacts]) -> Manifest:
    digests = ("content_digest", "dataset_digest", "preprocess_digest", "shards_digest")
    return Manifest(
        step=step,
        updates=9,
        world_size=2,
        zero_stage=3,
        configuration={"optim": {"base_lr": 5e-4, "clip": 3.0}, "run": {"minutes": None}},
        versions={"torch": "2.13.0"},
        data=DataFacts.model_validate({"spacing_mm": (1, 1, 1), **dict.fromkeys(digests, "ab")}),
        files=files,
    )


def test_any_flipped_bit_of_a_manifest_is_found(tmp_path: Path) -> None:
    manifest = manifest_of(10, {})
    document = bytearray(manifest.sealed().model_dump_json(indent=1).encode())
    (tmp_path / MANIFEST).write_bytes(document)
    assert verify(tmp_path) == manifest.sealed()
    for place in range(len(document)):
        flipped = document.copy()
        flipped[place] ^= 1 << place % 8
        (tmp_path / MANIFEST).write_bytes(flipped)
        with pytest.raises(FmctError, match=str(tmp_path)):
            verify(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"score": "much"}', '{"what": "auc"}'])
def test_a_damaged_score_is_none_and_stops_no_pruning(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3, 4):
        checkpoint_path(tmp_path, step).mkdir(parents=True)
    mark_score(checkpoint_path(tmp_path, 1), 0.7, "auc")
    damaged = checkpoint_path(tmp_path, 2).with_name(f"{checkpoint_path(tmp_path, 2).name}.score.json")
    damaged.write_text(text)
    prune(tmp_path, 4, keep_last=1, keep_every=None)
    assert checkpoints(tmp_path) == [checkpoint_path(tmp_path, step) for step in (1, 4)]
    assert str(damaged) in caplog.text
