"""A rank's reader processes, which prepare samples in advance; if one dies, the training ends.

Each has a separate pipe and separate memory, and they share no locks, so that no process waits for one that
has died. (In DALI 2.4's pool, processes share queues and locks: a reader that is killed while it holds or
waits for a lock blocks the trainer and the pool's shutdown permanently.)
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
"""Time for all readers of a trainer to end once killed; one that hangs in a file system is abandoned."""

_MAX_AHEAD = 64
"""Maximum requests per reader: so many fit in a socket's buffer, so that sending does not block."""


class Readers:
    """The batches of `ViewSource.batch`, in order, prepared in advance by reader processes."""

    def __init__(self, source: ViewSource, count: int, batch: int, prefetch: int) -> None:
        """Start the processes.

        Args:
            source: copied to each process.
            count: number of processes.
            batch: samples per batch, assigned to the readers in turn.
            prefetch: batches requested before they are used.

        Raises LostProcessError if one dies while starting.
        """
        self._batch = batch
        self._ahead = min(prefetch, _MAX_AHEAD)
        self._requested = 0
        self._readers: list[Reader] = []
        # Also without `close`: at exit Python waits for all processes, and these ignore SIGTERM.
        self._end = util.Finalize(self, _kill, (self._readers,), exitpriority=10)
        self._lock = threading.Lock()
        self._closed = False
        try:
            with shielded():
                for _ in range(count):
                    self._readers.append(Reader())
            for reader in self._readers:
                with self._report_loss():
                    reader.pipe.send(source)
        except BaseException:
            self.close()
            raise

    def batch(self, iteration: int) -> list[Sample]:
        """All samples of the next micro-batch, number `iteration` since the start.

        Raises as `ViewSource.batch`, and LostProcessError if any reader has died.
        """
        while self._requested <= iteration + self._ahead:
            with self._report_loss():
                for number, places in self._shares(self._requested):
                    self._readers[number].request(self._requested, places)
            self._requested += 1
        samples: dict[int, Sample] = {}
        for number, places in self._shares(iteration):
            samples |= zip(places, self._receive(self._readers[number]), strict=True)
        return [samples[place] for place in range(self._batch)]

    def lost(self) -> LostProcessError | None:
        """The error of a reader that has died; None otherwise, and after `close`. Thread-safe."""
        with self._lock:
            return None if self._closed else self._loss(0.0)

    def close(self) -> None:
        """Kill the readers."""
        with self._lock:
            self._closed = True
            self._end()

    def _shares(self, iteration: int) -> Iterator[tuple[int, list[int]]]:
        """The positions in a batch that each reader makes, for readers that make any."""
        count = len(self._readers)
        for number in range(count):
            places = list(range((number - iteration * self._batch) % count, self._batch, count))
            if places:
                yield number, places

    def _receive(self, reader: Reader) -> list[Sample]:
        with self._report_loss():
            ready = wait([reader.pipe, *(one.process.sentinel for one in self._readers)])
            if ready != [reader.pipe]:
                raise EOFError
            answer = reader.receive()
        if isinstance(answer, Exception):
            raise answer
        return answer

    @contextmanager
    def _report_loss(self) -> Iterator[None]:
        """Convert the error of a broken pipe, whose reader has died, to LostProcessError."""
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
            process.join(END_SECONDS)  # the exit code is available slightly after the end
        codes = [process.exitcode for process in processes if process.exitcode is not None]
        return LostProcessError(f"a reader process {_describe_exit(min(codes))}") if codes else None


def _kill(readers: list[Reader]) -> None:
    for reader in readers:
        reader.process.kill()
        reader.pipe.close()
    deadline = time.monotonic() + END_SECONDS
    for reader in readers:
        reader.process.join(max(0.0, deadline - time.monotonic()))


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}: see its lines above"
    signal_ = signal.Signals(-code)
    by = ", most likely by the kernel because memory ran out" if signal_ is signal.SIGKILL else ""
    remedy = "lower data.workers or data.prefetch, or give the job more memory"
    return f"was killed by {signal_.name}{by}: {remedy}"
