"""Work in this process or in worker processes, which end with their parent."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.util import Finalize
from typing import Any, TypeVar

from shards.environment import environment

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
    with process_pool(workers, work=work) as pool:
        for future in as_completed([pool.submit(_work, argument) for argument in arguments]):
            yield future.result()


@contextmanager
def one_worker(
    work: Callable[[Argument], Result], *imported: str
) -> Iterator[Callable[[Iterable[Argument]], list[Result]]]:
    """A function that returns `work` of each argument, in order, from one worker process.

    It starts with the first argument. imported: as for `process_pool`, whose errors the function raises.
    """
    with process_pool(1, *imported, work=work) as pool:
        yield lambda arguments: list(pool.map(_work, arguments))


_WORK: list[Any] = []
"""In a worker process of `unordered` or `one_worker`: its function."""


def _work(argument: Any) -> Any:
    return _WORK[0](argument)


@contextmanager
def process_pool(
    workers: int, *imported: str, work: Callable[[Any], Any] | None = None
) -> Iterator[ProcessPoolExecutor]:
    """A process pool that starts no further tasks after an exception in its context.

    Its processes are forked from a server (multiprocessing's "forkserver") that this process starts for its
    first pool: not from this process itself, which may hold threads (a progress bar, BLAS). Where TMPDIR can
    hold no socket, each process is started anew.
    imported: modules that the server of a first pool imports, once for all workers. Each worker that
    imported them itself would need a second of a core, and read hundreds of files from a shared file system.
    work: the function that `_work` calls, if the pool is for one.
    """
    place = dict(os.environ), _umask()
    context = multiprocessing.get_context("forkserver" if _start_server(imported) else "spawn")
    pool = _Pool(workers, mp_context=context, initializer=_set_up_worker, initargs=(place, work))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_server(imported: tuple[str, ...]) -> bool:
    """Start the server unless it runs; False if its socket cannot be made, whose path may have 107 bytes.

    It must find the modules where this process has found them.
    """
    forkserver.set_forkserver_preload([*imported])
    # CPython 3.11 does not pass sys.path, and would look in the working folder first.
    place = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
    try:
        with environment(place):
            resource_tracker.ensure_running()  # its start unblocks SIGINT
            with _signal_blocked(signal.SIGINT):
                forkserver.ensure_running()
        return True
    except OSError:
        return False


def stop_server() -> None:
    """End the server of this process's pools, which have ended, and wait for it; done when this process ends.

    The resources that workers have used (getrusage(2), RUSAGE_CHILDREN) are known from then on.
    """
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # multiprocessing's own tests use it


# When this process ends: after its children have, on which the server's own end depends.
Finalize(None, stop_server, exitpriority=-1)


def _umask() -> int:
    """The file mode creation mask of this process; os.umask only returns it by changing it."""
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


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
        try:
            with _signal_blocked(signal.SIGINT):
                return super().submit(work, *args, **kwargs)
        except (EOFError, ConnectionError):
            raise BrokenProcessPool("the server of the worker processes died") from None


@contextmanager
def _signal_blocked(number: int) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _set_up_worker(place: tuple[dict[str, str], int], work: Callable[[Any], Any] | None) -> None:
    """Take the environment and umask of the pool's process, which the server may have been started without.

    Exit when that process dies, and immediately on Ctrl-C: files are renamed only when complete.
    """
    variables, umask = place
    os.environ.clear()
    os.environ.update(variables)
    os.umask(umask)
    _WORK[:] = [work]
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
