"""Writing checkpoints in the background, with the same guarantees as in the foreground.

The training waits only while room is taken for every rank's file and its state is copied to host memory.
A thread a rank then writes the rank's file, syncs it and takes its digest; the ranks agree, over a process
group of their own, that all have done so; and rank 0 writes the manifest and gives the directory its name.
So a full disk shows before anything more is trained. Where a file system takes no room beforehand, the
training waits until the checkpoint has its name.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch.distributed as dist

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.checkpoint import (
    MANIFEST,
    ONLINE,
    Beginning,
    DataFacts,
    FileFacts,
    Manifest,
    checkpoint_path,
    file_facts,
    mark_score,
    part_name,
    prune,
)
from fmct_hpc.train.pieces import Piece, file_bytes, write_pieces
from fmct_hpc.train.process_group import collective_timeout, fail_together, together
from fmct_hpc.train.room import take_room
from fmct_hpc.train.state import State
from shards.atomic import sync
from shards.errors import FmctError, refusal_kind

log = logging.getLogger(__name__)

LAST_WAIT_SECONDS = 60.0
"""For a save in progress while the run fails: its other ranks may be dead."""

MANIFEST_ROOM = 1 << 20
"""Bytes, more than any manifest has: some 10 kB and 150 a rank."""


class Saver:
    """Saves a run's state, one checkpoint at a time; every rank must call each method at the same step."""

    def __init__(
        self,
        run: Path,
        config: TrainConfig,
        state: State,
        data: DataFacts,
        seconds: float = 0.0,
        beginning: Beginning | None = None,
    ) -> None:
        """seconds: what a save of this run took in earlier attempts. beginning: what the run began with."""
        self._run = run
        self._config = config
        self._state = state
        self._data = data
        self._beginning = beginning
        # Gloo also where training uses NCCL: two threads must not share a communicator.
        timeout = collective_timeout(config.run.hang_minutes)
        self._group = dist.new_group(backend="gloo", timeout=timeout)
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._figures: dict[str, float] = {}
        self.seconds = seconds
        """What the longest save has taken from begin to end."""

    @property
    def failed(self) -> bool:
        """Whether the newest save has failed; ranks may learn it a step apart."""
        return self._failure is not None

    def save(self, step: int, score: float | None = None) -> None:
        """Take room for the state at `step`, copy it and begin to write it.

        score: how good the online probe finds it; the best checkpoint stays (`checkpoint.prune`).
        Waits for an earlier save to end first, and for this one where no room can be taken beforehand.
        Raises FmctError on all ranks where the earlier one failed, or there is no room for this one.
        """
        began = time.perf_counter()
        self.finish()
        rank, world_size = dist.get_rank(), dist.get_world_size()
        shares = [piece.share(rank, world_size) for piece in self._state.pieces()]
        held = [piece for piece in shares if len(piece.values)]
        temporary = _temporary(checkpoint_path(self._run, step))
        try:
            together(lambda: _make_empty(temporary) if rank == 0 else None, self._group)
            room = all(together(lambda: _take_room(temporary, file_bytes(held)), self._group))
        except FmctError as error:
            _discard(temporary)
            fail_together(error)
        copies = [piece._replace(values=piece.values.to("cpu", copy=True)) for piece in held]
        waited = time.perf_counter() - began if room else None
        arguments = (step, self._state.updates, copies, began, waited, score)
        # A daemon: where another rank has died, this one must not outlive it by a collective's timeout.
        self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()
        if not room:
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint has its name; raises FmctError on all ranks where that failed."""
        if self._thread is not None:
            self._thread.join()
        if isinstance(self._failure, FmctError):
            fail_together(self._failure)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Let a checkpoint that is being written come to its end, if it can: the run may have failed."""
        if self._thread is not None:
            self._thread.join(timeout=LAST_WAIT_SECONDS)

    def figures(self) -> dict[str, float]:
        """Of a save that has ended since the last call: seconds from begin to end, those that the training
        waited, and bytes.
        """
        figures, self._figures = self._figures, {}
        return figures

    def _write(
        self,
        step: int,
        updates: int,
        pieces: list[Piece],
        began: float,
        waited: float | None,
        score: float | None,
    ) -> None:
        """Of a thread. waited: seconds that the training did; None where it waits for all of this."""
        path = checkpoint_path(self._run, step)
        temporary = _temporary(path)
        first = dist.get_rank() == 0
        try:
            files = dict(together(lambda: _write_part(temporary, pieces), self._group))
            manifest = Manifest(
                step=step,
                updates=updates,
                world_size=dist.get_world_size(),
                zero_stage=self._config.engine.zero_stage,
                configuration=self._config.model_dump(mode="json"),
                versions={name: version(name) for name in ("fmct-hpc", "torch", "deepspeed")},
                data=self._data,
                files=files,
                beginning=self._beginning,
            )
            together(lambda: self._publish(path, temporary, manifest, score) if first else None, self._group)
        except Exception as error:  # raised on the training's thread, by `finish`
            self._failure = error
            _discard(temporary)
            return
        seconds = time.perf_counter() - began
        waited = seconds if waited is None else waited
        self.seconds = max(self.seconds, seconds)
        self._figures = {"save_seconds": seconds, "save_wait": waited, "save_bytes": float(manifest.bytes)}
        log.info(
            "step %d: saved %s, %.1f MB in %.2f s, of which training waited %.2f s",
            *(step, path, manifest.bytes / 1e6, seconds, waited),
        )

    def _publish(self, path: Path, temporary: Path, manifest: Manifest, score: float | None) -> None:
        with _writing(path):
            with (temporary / MANIFEST).open("r+") as file:
                file.write(manifest.sealed().model_dump_json(indent=1))
                file.truncate()
            sync(temporary / MANIFEST)
            sync(temporary)
            if path.exists():
                # Damaged, or the run would have gone on from it: nothing that is good is removed.
                shutil.rmtree(path)
            if score is not None:  # first: a checkpoint that has its name has its score
                mark_score(path, score, "mean AUC of the online probe's logistic regression", ONLINE)
            os.replace(temporary, path)
            sync(path.parent)
        prune(self._run, manifest.step, self._config.run.keep_last, self._config.run.keep_every)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A refusal by the system is reported in one line, on all ranks, and is no defect."""
    try:
        yield
    except OSError as error:
        raise refusal_kind(error)(
            f"{path}: can't be written ({error.strerror or error}); make room, and run it again"
        ) from None


def _temporary(path: Path) -> Path:
    """Where a checkpoint is written."""
    return path.with_name(f".{path.name}.tmp")


def _make_empty(directory: Path) -> None:
    """Make the directory, and remove what killed processes left beside it."""
    with _writing(directory):
        for left in directory.parent.glob(".step-*.tmp"):
            shutil.rmtree(left)
        directory.mkdir(parents=True)


def _take_room(temporary: Path, size: int) -> bool:
    """For this rank's file of `size` bytes and, on rank 0, the manifest; False where that can't be."""
    rank = dist.get_rank()
    sizes = {part_name(rank): size} | ({MANIFEST: MANIFEST_ROOM} if rank == 0 else {})
    room = True
    for name, bytes_ in sizes.items():
        with _writing(temporary / name):
            room &= take_room(temporary / name, bytes_)
    return room


def _discard(temporary: Path) -> None:
    """Where the disk is full, others need the room, records of the failure among them."""
    if dist.get_rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_part(temporary: Path, pieces: list[Piece]) -> tuple[str, FileFacts]:
    name = part_name(dist.get_rank())
    file = temporary / name
    with _writing(file):
        write_pieces(file, pieces)
        sync(file)
    facts = file_facts(file)
    if facts is None:
        raise FmctError(f"{file}: can't be read back; is the run folder on a file system of all nodes?")
    return name, facts
