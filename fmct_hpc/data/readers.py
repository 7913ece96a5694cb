"""Telling that a reader process has died, where DALI 2.4 alone would sometimes wait for it for ever."""

import multiprocessing
import multiprocessing.connection
import threading

from nvidia.dali._multiproc.pool import WorkerPool


class ReaderWatch:
    """A thread that sees a reader die, and wakes the trainer if that waits for it.

    DALI gives readers their tasks through a multiprocessing.Condition, whose `notify` waits until the process
    that it wakes says so (CPython 3.11): one that was killed in its sleep never does. Here the watch says it.
    """

    def __init__(self, pool: WorkerPool) -> None:
        """pool: of a pipeline that has been built."""
        processes = pool.pool
        queues = [context.dedicated_task_queue for context in processes._workers_contexts]
        queues.append(processes._general_task_queue)
        self._conditions = [queue.cv_not_empty for queue in queues if queue is not None]
        self._sentinels = [process.sentinel for process in processes._processes]
        self._told, self._tell = multiprocessing.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._watch, name="reader watch", daemon=True)
        self._thread.start()

    def died(self) -> bool:
        """Whether a reader has ended: asked of the processes, as DALI may see it before the watch does."""
        return bool(multiprocessing.connection.wait(self._sentinels, timeout=0))

    def close(self) -> None:
        """Readers that end from now on do so in order."""
        if self._thread.is_alive():
            self._tell.send(None)
            self._thread.join()
        self._tell.close()
        self._told.close()

    def _watch(self) -> None:
        if self._told in multiprocessing.connection.wait([*self._sentinels, self._told]):
            return
        for condition in self._conditions:
            for _ in self._sentinels:  # DALI ends the others too
                condition._woken_count.release()
