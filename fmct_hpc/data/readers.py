"""A rank's reader processes: they make samples ahead of their use, and their death ends the training.

Each has a pipe and memory of its own and shares no lock with others, so nobody waits for one that has died.
(DALI 2.4's own pool of such processes shares queues and their locks: a reader that is killed while it holds
one, or sleeps on one, stops the trainer and the pool's end for ever.)
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import util
from multiprocessing.connection import wait

from fmct_hpc.data.reader import Reader, shielded
from fmct_hpc.data.source import Sample, ViewSource
from shards.errors import LostProcessError

END_SECONDS = 5.0
"""For all readers of a trainer to leave the system once they are killed: more than it takes, unless one of
them hangs in a file system; that one is left alone."""

_MOST_AHEAD = 64
"""Tasks a reader may have: what a socket's buffer holds of them, so that nobody blocks in sending."""


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
        self._readers: list[Reader] = []
        # Also where nobody closes: at its end Python waits for all processes, and these ignore SIGTERM.
        self._end = util.Finalize(self, _kill, (self._readers,), exitpriority=10)
        self._lock = threading.Lock()
        self._closed = False
        try:
            with shielded():
                for _ in range(count):
                    self._readers.append(Reader())
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

    def _receive(self, reader: Reader) -> list[Sample]:
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


def _kill(readers: list[Reader]) -> None:
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
