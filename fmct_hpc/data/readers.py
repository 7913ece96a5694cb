"""Reader processes that make samples ahead of their use, and that end the trainer when they are killed.

Each has a pipe and memory of its own and shares no lock with others, so nobody waits for one that has died.
(DALI 2.4's own pool of such processes shares queues and their locks: a reader that is killed while it holds
one, or sleeps on one, stops the trainer and the pool's end for ever.)
"""

import ctypes
import multiprocessing
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker, util
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from fmct_hpc.data.handover import Receiver, Sender
from fmct_hpc.data.source import Sample, ViewSource
from shards.errors import FmctError, LostProcessError

END_SECONDS = 5.0
"""For all readers of a trainer to leave the system once they are killed: more than it takes, unless one of
them hangs in a file system; that one is left alone."""

_SHIELDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""

_MOST_AHEAD = 64
"""Tasks a reader may have: what a socket's buffer holds of them, so that nobody blocks in sending."""

_context = multiprocessing.get_context("spawn")


class Readers:
    """What `ViewSource.batch` makes, in order, by processes that are some batches ahead."""

    def __init__(self, source: ViewSource, count: int, batch: int, prefetch: int) -> None:
        """Start the processes.

        Args:
            source: what each of them gets a copy of.
            count: how many there are.
            batch: samples a batch; its places are dealt to the readers in turn.
            prefetch: batches asked for before they are used.

        Raises LostProcessError where one dies in its start.
        """
        self._batch = batch
        self._ahead = min(prefetch, _MOST_AHEAD)
        self._asked = 0
        self._readers: list[_Reader] = []
        # Also where nobody closes: at its end Python waits for all processes, and these ignore SIGTERM.
        self._end = util.Finalize(self, _kill, (self._readers,), exitpriority=10)
        self._lock = threading.Lock()
        self._closed = False
        try:
            with _shielded():
                for _ in range(count):
                    self._readers.append(_Reader())
            for reader in self._readers:
                with self._told():
                    reader.pipe.send(source)
        except BaseException:
            self.close()
            raise

    def batch(self, iteration: int) -> list[Sample]:
        """All samples of the next micro-batch, number `iteration` since the start.

        Raises what `ViewSource.batch` raises, and LostProcessError where any reader has died.
        """
        while self._asked <= iteration + self._ahead:
            with self._told():
                for number, places in self._shares(self._asked):
                    self._readers[number].ask(self._asked, places)
            self._asked += 1
        samples: dict[int, Sample] = {}
        for number, places in self._shares(iteration):
            samples |= zip(places, self._receive(self._readers[number]), strict=True)
        return [samples[place] for place in range(self._batch)]

    def lost(self) -> LostProcessError | None:
        """Whether a reader has died, and how; None too once they are closed. To be asked on any thread."""
        with self._lock:
            return None if self._closed else self._loss(0.0)

    def close(self) -> None:
        """Kill the readers, whatever they are doing."""
        with self._lock:
            self._closed = True
            self._end()

    def _shares(self, iteration: int) -> Iterator[tuple[int, list[int]]]:
        """Which places of a batch a reader makes, of those that make any."""
        count = len(self._readers)
        for number in range(count):
            places = list(range((number - iteration * self._batch) % count, self._batch, count))
            if places:
                yield number, places

    def _receive(self, reader: "_Reader") -> list[Sample]:
        with self._told():
            ready = wait([reader.pipe, *(one.process.sentinel for one in self._readers)])
            if ready != [reader.pipe]:
                raise EOFError
            answer = reader.receive()
        if isinstance(answer, Exception):
            raise answer
        return answer

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A pipe that breaks means that a reader has died; LostProcessError says how."""
        try:
            yield
        except (EOFError, OSError):
            with self._lock:
                loss = self._loss(END_SECONDS)
            if loss is None:
                raise
            raise loss from None

    def _loss(self, timeout: float) -> LostProcessError | None:
        ended = wait([reader.process.sentinel for reader in self._readers], timeout)
        processes = [one.process for one in self._readers if one.process.sentinel in ended]
        for process in processes:
            process.join(END_SECONDS)  # the system tells of an end a moment before it tells how
        codes = [process.exitcode for process in processes if process.exitcode is not None]
        return LostProcessError(f"a reader process {_how(min(codes))}") if codes else None


class _Reader:
    """One process, seen by the trainer."""

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


def _kill(readers: list[_Reader]) -> None:
    for reader in readers:
        reader.process.kill()
        reader.pipe.close()
    deadline = time.monotonic() + END_SECONDS
    for reader in readers:
        reader.process.join(max(0.0, deadline - time.monotonic()))


def _how(code: int) -> str:
    if code >= 0:
        return f"ended by itself (exit code {code}): its own lines above say why"
    signal_ = signal.Signals(-code)
    by = ", most likely by the kernel for want of memory" if signal_ is signal.SIGKILL else ""
    remedy = "lower data.workers or data.prefetch, or give the job more memory"
    return f"was killed by {signal_.name}{by}: {remedy}"


@contextmanager
def _shielded() -> Iterator[None]:
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
    except (FmctError, OSError) as error:
        return error
    except Exception:  # a defect, whose traceback the trainer shows
        return RuntimeError(f"in a reader process:\n{traceback.format_exc()}")
