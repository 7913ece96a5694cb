"""Stop requests by signals and by time limits."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest

from fmct_hpc.train.signals import stale_job_end, stop_on_signal, time_limit

TWICE = """
import os, signal, time
from fmct_hpc.train import signals

signals.SAME_REQUEST_SECONDS = 0.2
with signals.stop_on_signal() as stop:
    assert not stop(needed=1e9)
    os.kill(os.getpid(), signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGUSR2)
    assert stop(needed=0)
    print("asked", flush=True)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached", flush=True)
"""


def test_a_second_signal_aborts_but_the_same_one_passed_on_twice_does_not() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", TWICE], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (-signal.SIGTERM, "asked\n"), result.stderr


def test_the_earlier_of_job_end_and_configured_minutes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert time_limit(None) == math.inf
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 600))
    assert 590 < time_limit(None) - time.time() <= 600
    assert 290 < time_limit(5) - time.time() <= 300
    with stop_on_signal(time_limit(20)) as stop:
        assert not stop(needed=500)
        assert stop(needed=700)


@pytest.mark.parametrize(
    ("given", "message"), [("1700000000", "minutes ago"), ("soon", "not a time"), ("nan", "not a time")]
)
def test_a_job_end_in_the_past_is_reported_and_ignored(
    monkeypatch: pytest.MonkeyPatch, given: str, message: str
) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", given)
    line = stale_job_end()
    assert line is not None
    assert message in line
    assert time_limit(None) == math.inf
    assert time_limit(5) < math.inf
