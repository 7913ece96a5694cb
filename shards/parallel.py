"""Work in this process or in worker processes, which end with their parent."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def unordered(
    work: Callable[[Argument], Result], arguments: Iterable[Argument], workers: int
) -> Iterator[Result]:
    """Yield work(argument) for each argument as it completes; a worker's exception is raised here.

    With more than one worker they are pickled: `work` once for each worker, as it may hold a dataset, which a
    worker then opens once; an argument and its result each time.
    """
    if workers == 1:
        yield from map(work, arguments)
        return
    with process_pool(workers, work) as pool:
        for future in as_completed([pool.submit(_work, argument) for argument in arguments]):
            yield future.result()


_WORK: list[Callable[[Any], Any]] = []
"""In a worker process of `unordered`: its function."""


def _work(argument: Any) -> Any:
    return _WORK[0](argument)


@contextmanager
def process_pool(workers: int, *work: Callable[[Any], Any]) -> Iterator[ProcessPoolExecutor]:
    """A process pool that starts no further tasks after an exception in its context.

    work: the function that `_work` calls, if the pool is for one.
    """
    # Spawned, not forked: the caller may hold threads (a progress bar, BLAS).
    context = multiprocessing.get_context("spawn")
    pool = _Pool(workers, mp_context=context, initializer=_set_up_worker, initargs=work)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class InlineExecutor(Executor):
    """Runs each call immediately, in this process."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The finished future of `work`; an exception is raised here."""
        future: Future[Any] = Future()
        future.set_result(work(*args, **kwargs))
        return future


class _Pool(ProcessPoolExecutor):
    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        # Workers start here and inherit the signal mask: Ctrl-C waits until their first imports are done.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(work, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _set_up_worker(*work: Callable[[Any], Any]) -> None:
    """Exit when the parent dies, and immediately on Ctrl-C: files are renamed only when complete."""
    _WORK[:] = work
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
