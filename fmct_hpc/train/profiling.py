"""`fmct train --profile`: profile a few steps."""

import logging
from pathlib import Path

from torch import profiler

from shards.atomic import atomic_path

log = logging.getLogger(__name__)

WARM_UP, STEPS = 3, 3
"""Steps skipped (compilation, first allocations), and steps recorded."""


class Profile:
    """Records `STEPS` steps of this rank; the trace opens in chrome://tracing or ui.perfetto.dev."""

    def __init__(self, run: Path, start: int) -> None:
        self._path = run / "profile" / f"step-{start + WARM_UP + 1:08d}.json"
        self._profiler: profiler.profile | None = None
        self._begin, self._end = start + WARM_UP, start + WARM_UP + STEPS

    def step(self, done: int) -> None:
        """Start or stop recording after `done` steps."""
        if done == self._begin:
            self._profiler = profiler.profile(record_shapes=True, profile_memory=True)
            self._profiler.start()
        elif done == self._end and self._profiler:
            self._profiler.stop()
            with atomic_path(self._path) as temporary:
                self._profiler.export_chrome_trace(str(temporary))
            on_gpu = profiler.ProfilerActivity.CUDA in profiler.supported_activities()
            order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
            table = self._profiler.key_averages().table(order, row_limit=15)
            log.info("%s: %d steps\n%s", self._path, STEPS, table)
            self._profiler = None
