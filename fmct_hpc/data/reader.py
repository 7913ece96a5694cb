"""One reader process, from both its ends."""

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
    """The process, seen by the trainer."""

    def __init__(self) -> None:
        self.pipe, theirs = _context.Pipe()
        self.process: BaseProcess = _context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self._slots: list[Receiver] = []
        self._asked: deque[int] = deque()

    def ask(self, iteration: int, places: list[int]) -> None:
        """Have it make a share of a batch, into memory that nobody uses any more."""
        slots = range(len(self._slots))
        free = (n for n in slots if n not in self._asked and not self._slots[n].used)
        slot = next(free, len(self._slots))
        if slot == len(self._slots):
            self._slots.append(Receiver())
        self._asked.append(slot)
        self.pipe.send((slot, iteration, places))

    def receive(self) -> list[Sample] | Exception:
        """What became of the share that it was asked for first."""
        answer: list[Sample] | Exception = self._slots[self._asked.popleft()].receive(self.pipe)
        return answer


@contextmanager
def shielded() -> Iterator[None]:
    """Processes that are started here never see a scheduler's signals, which go to all processes of a job:
    the trainer decides what to do then, and must still get its batches.
    """
    resource_tracker.ensure_running()  # its start, which the first process brings about, would unblock some
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SHIELDED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection) -> None:
    """A reader's life; it ends with its trainer."""
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
    except Exception:  # a defect, whose traceback the trainer shows
        return RuntimeError(f"in a reader process:\n{traceback.format_exc()}")
