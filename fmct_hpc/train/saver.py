"""Writing checkpoints behind the training's back, with the same guarantees as in front of it.

The training waits only while its state is copied to host memory. A thread a rank then writes the rank's
file, syncs it and takes its digest; the ranks agree, over a process group of their own, that all have done
so; and rank 0 writes the manifest and gives the directory its name.
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
from safetensors import SafetensorError

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.checkpoint import (
    MANIFEST,
    DataFacts,
    FileFacts,
    Manifest,
    checkpoint_path,
    file_facts,
    part_name,
    prune,
)
from fmct_hpc.train.pieces import Piece, write_pieces
from fmct_hpc.train.process_group import fail_together, together
from fmct_hpc.train.state import State
from shards.atomic import sync, write_text
from shards.errors import DISK_FULL, FmctError, NoRoomError

log = logging.getLogger(__name__)

LAST_WAIT_SECONDS = 60.0
"""For a save that goes on while the run fails: its other ranks may be dead."""


class Saver:
    """Saves a run's state, one checkpoint at a time; every rank must call each method at the same step."""

    def __init__(self, run: Path, config: TrainConfig, state: State, data: DataFacts) -> None:
        self._run = run
        self._config = config
        self._state = state
        self._data = data
        # Gloo also where training uses NCCL: two threads must not share a communicator.
        self._group = dist.new_group(backend="gloo")
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._figures: dict[str, float] = {}
        self.seconds = 0.0
        """What the longest save has taken from begin to end."""

    @property
    def failed(self) -> bool:
        """Whether the newest save has failed; ranks may learn it a step apart."""
        return self._failure is not None

    def save(self, step: int, last: bool = False) -> None:
        """Copy the state at `step` and begin to write it; waits for an earlier save to end first.

        Raises FmctError on all ranks where the earlier one failed. Where the run stops here (`last`), one
        that found no room is told and made up for: there may be room by now.
        """
        began = time.perf_counter()
        if last:
            self._forgive()
        self.finish()
        rank, world_size = dist.get_rank(), dist.get_world_size()
        shares = (piece.share(rank, world_size) for piece in self._state.pieces())
        copies = [piece._replace(values=piece.values.to("cpu", copy=True)) for piece in shares]
        waited = time.perf_counter() - began
        arguments = (step, self._state.updates, copies, began, waited)
        # A daemon: where another rank has died, this one must not outlive it by a collective's timeout.
        self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until the checkpoint has its name; raises FmctError on all ranks where that failed."""
        if self._thread is not None:
            self._thread.join()
        if isinstance(self._failure, FmctError):
            fail_together(self._failure)
        if self._failure is not None:
            raise self._failure

    def _forgive(self) -> None:
        if self._thread is not None:
            self._thread.join()
        if isinstance(self._failure, NoRoomError):
            if dist.get_rank() == 0:
                log.warning("%s: trying once more", self._failure)
            self._failure = None

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

    def _write(self, step: int, updates: int, pieces: list[Piece], began: float, waited: float) -> None:
        path = checkpoint_path(self._run, step)
        temporary = path.with_name(f".{path.name}.tmp")
        first = dist.get_rank() == 0
        try:
            together(lambda: _make_empty(temporary) if first else None, self._group)
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
            )
            together(lambda: self._publish(path, temporary, manifest) if first else None, self._group)
        except Exception as error:  # raised on the training's thread, by `finish`
            self._failure = error
            if first:  # where the disk is full, others need the room, records of the failure among them
                shutil.rmtree(temporary, ignore_errors=True)
            return
        seconds = time.perf_counter() - began
        self.seconds = max(self.seconds, seconds)
        self._figures = {"save_seconds": seconds, "save_wait": waited, "save_bytes": float(manifest.bytes)}
        log.info(
            "step %d: saved %s, %.1f MB in %.2f s, of which training waited %.2f s",
            *(step, path, manifest.bytes / 1e6, seconds, waited),
        )

    def _publish(self, path: Path, temporary: Path, manifest: Manifest) -> None:
        with _writing(path):
            write_text(temporary / MANIFEST, manifest.sealed().model_dump_json(indent=1))
            sync(temporary)
            if path.exists():
                # Damaged, or the run would have gone on from it: nothing that is good is removed.
                shutil.rmtree(path)
            os.replace(temporary, path)
            sync(path.parent)
            prune(self._run, manifest.step, self._config.run.keep_last, self._config.run.keep_every)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the system refuses is told in one line, on all ranks, and is no defect."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # Safetensors, written in Rust, has the number in its message only.
        full = any(getattr(error, "errno", None) == n or f"os error {n})" in str(error) for n in DISK_FULL)
        kind = NoRoomError if full else FmctError
        raise kind(f"{path}: can't be written ({error}); make room, and run it again") from None


def _make_empty(directory: Path) -> None:
    """Make the directory, and remove what killed processes left beside it."""
    with _writing(directory):
        for left in directory.parent.glob(".step-*.tmp"):
            shutil.rmtree(left)
        directory.mkdir(parents=True)


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
