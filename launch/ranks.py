"""Starting the ranks of a training run on this machine, as schedulers do on a cluster; ending a rank."""

import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import NamedTuple

from fmct_hpc.train.signals import EXIT_SAVED
from shards.cores import usable_cores
from shards.errors import FmctError

FAILED_RANK_GRACE_SECONDS = 20.0
"""How long the other ranks may take to end by themselves after one has failed."""

PORTS = range(20000, 32000)
"""Ports for the rendezvous of ranks. Linux assigns ephemeral ports from 32768 on (ip(7),
ip_local_port_range), so such a port could be taken before rank 0 listens on it."""


class Ended(NamedTuple):
    """How the ranks ended."""

    code: int
    """The first nonzero exit code, or 0; for a rank ended by a signal, 128 + the signal number."""
    rank: int
    """The rank with that code."""

    def describe(self) -> str:
        """The outcome as text."""
        how = f"exit code {self.code}"
        if self.code > 128:
            how = f"killed by {signal.Signals(self.code - 128).name}"
        return f"rank {self.rank}: {how}"


def run_ranks(command: list[str], ranks: int) -> Ended:
    """Run `command` once per rank and wait until all have ended.

    Each process gets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT (torch.distributed's
    environment initialisation). SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 are passed on to every rank. If a rank
    fails, the others are ended, since their next collective would never complete.
    """
    threads = max(1, usable_cores() // ranks)
    shared = {
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }
    processes = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(ranks)
    ]

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    passed = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    previous = {number: signal.signal(number, pass_on) for number in passed}
    try:
        return _wait(processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_rank(code: int) -> None:
    """Exit this process with `code` at once if it has joined a process group; otherwise do nothing.

    The interpreter's normal shutdown tears down gloo's threads in any order, which occasionally aborts
    (torch 2.13, "terminate called without an active exception") and replaces our exit code by 134.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(processes: list[subprocess.Popen[bytes]]) -> Ended:
    """Wait until all ranks have ended, or one has failed and the grace time is over."""
    first: Ended | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        failed = [ended for ended in _ended_ranks(processes) if ended.code != EXIT_SAVED]
        if failed and not first:
            first = failed[0]
            deadline = time.monotonic() + FAILED_RANK_GRACE_SECONDS
        time.sleep(0.05)
    return first or next(iter(_ended_ranks(processes)), Ended(0, 0))


def _ended_ranks(processes: list[subprocess.Popen[bytes]]) -> list[Ended]:
    """The ranks that have ended with a nonzero code."""
    codes = [process.poll() or 0 for process in processes]
    return [Ended(code if code > 0 else 128 - code, rank) for rank, code in enumerate(codes) if code]


def free_port() -> int:
    """A port for rank 0 to listen on once it has started."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise FmctError(f"no free port from {PORTS.start} to {PORTS.stop - 1} for the rendezvous of the ranks")
