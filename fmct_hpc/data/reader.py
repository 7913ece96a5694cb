"""A reader process: its handle in the trainer, and its main loop."""

import ctypes
import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from fmct_hpc.data.shared_arrays import Receiver, Sender
from fmct_hpc.data.source import Sample
from shards.errors import FmctError

_SHIELDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""

_context = multiprocessing.get_context("spawn")


class Reader:
    """The trainer's handle of a reader process."""

    def __init__(self) -> None:
        self.pipe, theirs = _context.Pipe()
        self.process: BaseProcess = _context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self._slots: list[Receiver] = []
        self._requested: deque[int] = deque()

    def request(self, iteration: int, places: list[int]) -> None:
        """Request a share of a batch, to be written to memory that is no longer referenced."""
        slots = range(len(self._slots))
        free = (n for n in slots if n not in self._requested and not self._slots[n].used)
        slot = next(free, len(self._slots))
        if slot == len(self._slots):
            self._slots.append(Receiver())
        self._requested.append(slot)
        self.pipe.send((slot, iteration, places))

    def receive(self) -> list[Sample] | Exception:
        """The share that was requested first, or the exception that it raised."""
        answer: list[Sample] | Exception = self._slots[self._requested.popleft()].receive(self.pipe)
        return answer


@contextmanager
def shielded() -> Iterator[None]:
    """Block a scheduler's signals in processes that are started here.

    They go to all processes of a job; the trainer handles them, and still needs its batches.
    """
    resource_tracker.ensure_running()  # started by the first process otherwise, which would unblock signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SHIELDED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection) -> None:
    """Main loop of a reader, which ends with its trainer."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    slots: dict[int, Sender] = {}
    with suppress(EOFError, ConnectionError):
        source = _outcome(pipe.recv)
        while True:
            slot, iteration, places = pipe.recv()
            failed = isinstance(source, Exception)
            answer = source if failed else _outcome(source.batch, iteration, places)
            slots.setdefault(slot, Sender()).send(pipe, answer)


def _outcome(function: Callable[..., Any], *arguments: object) -> Any:
    """What `function` returns, or the exception to raise in the trainer."""
    try:
        return function(*arguments)
    except (FmctError, OSError, MemoryError) as error:
        return error
    except Exception:  # a bug, whose traceback the trainer shows
        return RuntimeError(f"in a reader process:\n{traceback.format_exc()}")
