"""Write checkpoints in the background, with the same guarantees as in the foreground.

Training waits only while disk space is reserved for every rank's file and the state is copied to host memory.
A thread per rank then writes the rank's file, syncs it and computes its digest; the ranks confirm this over a
separate process group; rank 0 writes the manifest and renames the directory. So a full disk is noticed before
training continues. If the file system cannot reserve space, training waits until the checkpoint is complete.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch.distributed as dist

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.checkpoint import (
    MANIFEST,
    ONLINE,
    DataFacts,
    FileFacts,
    InitialWeights,
    Manifest,
    checkpoint_path,
    file_facts,
    mark_score,
    part_name,
    prune,
)
from fmct_hpc.train.disk_space import reserve_space
from fmct_hpc.train.pieces import Piece, file_bytes, write_pieces
from fmct_hpc.train.process_group import collective_timeout, fail_together, on_every_rank
from fmct_hpc.train.state import State
from shards.atomic import sync
from shards.errors import FmctError, refusal_kind

log = logging.getLogger(__name__)

LAST_WAIT_SECONDS = 60.0
"""Maximum wait for a save in progress when the run fails: other ranks may be dead."""

MANIFEST_ROOM = 1 << 20
"""Bytes reserved for the manifest, which has about 10 kB and 150 bytes per rank."""


class Saver:
    """Saves a run's state, one checkpoint at a time; every rank must call each method at the same step."""

    def __init__(
        self,
        run: Path,
        config: TrainConfig,
        state: State,
        data: DataFacts,
        seconds: float = 0.0,
        beginning: InitialWeights | None = None,
    ) -> None:
        """seconds: longest save in earlier attempts. beginning: the weights that the run started from."""
        self._run = run
        self._config = config
        self._state = state
        self._data = data
        self._beginning = beginning
        # Gloo even if training uses NCCL: two threads must not share a communicator.
        timeout = collective_timeout(config.run.hang_minutes)
        self._group = dist.new_group(backend="gloo", timeout=timeout)
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._figures: dict[str, float] = {}
        self.seconds = seconds
        """Duration of the longest save."""

    @property
    def failed(self) -> bool:
        """Whether the newest save has failed; ranks may notice it at different steps."""
        return self._failure is not None

    def save(self, step: int, score: float | None = None) -> None:
        """Reserve disk space for the state at `step`, copy the state and start writing it.

        score: of the online probe; the best checkpoint is kept (`checkpoint.prune`). Waits for an earlier
        save first, and for this one if space cannot be reserved. Raises FmctError on all ranks if the earlier
        save failed, or there is no space for this one.
        """
        began = time.perf_counter()
        self.finish()
        rank, world_size = dist.get_rank(), dist.get_world_size()
        shares = [piece.share(rank, world_size) for piece in self._state.pieces()]
        held = [piece for piece in shares if len(piece.values)]
        temporary = _temporary(checkpoint_path(self._run, step))
        try:
            on_every_rank(lambda: _make_empty(temporary) if rank == 0 else None, self._group)
            reserved = all(on_every_rank(lambda: _reserve(temporary, file_bytes(held)), self._group))
        except FmctError as error:
            _discard(temporary)
            fail_together(error)
        copies = [piece._replace(values=piece.values.to("cpu", copy=True)) for piece in held]
        waited = time.perf_counter() - began if reserved else None
        arguments = (step, self._state.updates, copies, began, waited, score)
        # A daemon: if another rank has died, this one must not wait for a collective's timeout.
        self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()
        if not reserved:
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint is complete; raises FmctError on all ranks if the save failed."""
        if self._thread is not None:
            self._thread.join()
        if isinstance(self._failure, FmctError):
            fail_together(self._failure)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Wait a limited time for a save in progress, which may not finish if the run has failed."""
        if self._thread is not None:
            self._thread.join(timeout=LAST_WAIT_SECONDS)

    def figures(self) -> dict[str, float]:
        """Figures of a save that ended since the last call: duration, seconds that training waited, bytes."""
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
        """Body of the thread. waited: seconds that training waited; None if it waits for the whole save."""
        path = checkpoint_path(self._run, step)
        temporary = _temporary(path)
        first = dist.get_rank() == 0
        try:
            files = dict(on_every_rank(lambda: _write_part(temporary, pieces), self._group))
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
            publish = partial(self._publish, path, temporary, manifest, score)
            on_every_rank(lambda: publish() if first else None, self._group)
        except Exception as error:  # raised in the training thread, by `finish`
            self._failure = error
            _discard(temporary)
            return
        seconds = time.perf_counter() - began
        waited = seconds if waited is None else waited
        self.seconds = max(self.seconds, seconds)
        self._figures = {"save_seconds": seconds, "save_wait": waited, "save_bytes": float(manifest.bytes)}
        log.info(
            "step %d: saved %s, %.1f MB in %.2f s; training waited %.2f s",
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
                # It is damaged, or the run would have resumed from it.
                shutil.rmtree(path)
            if score is not None:  # before the rename: a complete checkpoint has its score
                mark_score(path, score, "mean AUC of the online probe's logistic regression", ONLINE)
            os.replace(temporary, path)
            sync(path.parent)
        prune(self._run, manifest.step, self._config.run.keep_last, self._config.run.keep_every)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Convert an OSError to an FmctError with a one-line message."""
    try:
        yield
    except OSError as error:
        raise refusal_kind(error)(
            f"{path}: can't be written ({error.strerror or error}); free disk space, and run it again"
        ) from None


def _temporary(path: Path) -> Path:
    """The directory in which a checkpoint is written before it gets its name."""
    return path.with_name(f".{path.name}.tmp")


def _make_empty(directory: Path) -> None:
    """Create the directory, and remove those that killed processes left beside it."""
    with _writing(directory):
        for left in directory.parent.glob(".step-*.tmp"):
            shutil.rmtree(left)
        directory.mkdir(parents=True)


def _reserve(temporary: Path, size: int) -> bool:
    """Reserve space for this rank's file of `size` bytes and rank 0's manifest; False if unsupported."""
    rank = dist.get_rank()
    sizes = {part_name(rank): size} | ({MANIFEST: MANIFEST_ROOM} if rank == 0 else {})
    reserved = True
    for name, bytes_ in sizes.items():
        with _writing(temporary / name):
            reserved &= reserve_space(temporary / name, bytes_)
    return reserved


def _discard(temporary: Path) -> None:
    """Remove the directory: on a full disk other files, such as error records, need the space."""
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
        raise FmctError(
            f"{file}: can't be read back; is the run folder on a file system shared by all nodes?"
        )
    return name, facts
