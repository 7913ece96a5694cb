"""One function over many arguments, in this process or in several."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def unordered(
    work: Callable[[Argument], Result], arguments: Iterable[Argument], workers: int
) -> Iterator[Result]:
    """Yield work(argument) for each argument, as they get done; what a worker raises is raised here.

    With more than one worker, `work`, its argument and its result are pickled.
    """
    if workers == 1:
        yield from map(work, arguments)
        return
    context = multiprocessing.get_context("spawn")  # safe whatever threads the caller runs
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(work, argument) for argument in arguments]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
