"""`fmct train` with a pause after each step, so that a test can interrupt it during a run.

`FMCT_TEST_PAUSE=SECONDS python tests/paced_training.py train ...`; rank 0 dies at step FMCT_TEST_CRASH_AT.
"""

import os
import signal
import time

from fmct_hpc.train.records import Records
from launch.cli import main

_step = Records.step


def _paced_step(self: Records, step: int, figures: dict[str, float]) -> None:
    _step(self, step, figures)
    time.sleep(float(os.environ["FMCT_TEST_PAUSE"]))
    if str(step) == os.environ.get("FMCT_TEST_CRASH_AT"):
        os.kill(os.getpid(), signal.SIGSEGV)


if __name__ == "__main__":
    Records.step = _paced_step  # type: ignore[method-assign]
    main()
