"""Worker processes of a command of tests/forked_commands.py: they have its libraries as well.

Workers are forked from a server that the command starts for its first pool (shards/parallel.py), by
multiprocessing's "forkserver". Here this server is a process that was forked before the command did anything.
"""

import fcntl
import json
import multiprocessing.util
import os
import signal
import socket
from collections.abc import Sequence
from typing import Any

from process_groups import end_with

SERVER = "from multiprocessing.forkserver import main"
"""The beginning of the program that multiprocessing starts."""


def fork_server() -> None:
    """Fork the process that becomes this one's server when it starts one; it ends with this process."""
    ours, theirs = socket.socketpair()
    this = os.getpid()
    server = os.fork()
    if not server:
        ours.close()
        end_with(this)
        try:
            be_server(theirs)
        finally:
            os._exit(0)
    theirs.close()
    start = multiprocessing.util.spawnv_passfds

    def start_or_hand_over(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        if not str(args[-1]).startswith(SERVER):
            return start(path, args, passfds)
        socket.send_fds(ours, [json.dumps([args[-1], passfds]).encode()], passfds)
        return server

    multiprocessing.util.spawnv_passfds = start_or_hand_over


def be_server(commands: socket.socket) -> None:
    """Run the program that the command hands over, with its descriptors under their numbers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as shards.parallel starts it
    message, given, _, _ = socket.recv_fds(commands, 2**16, 16)
    commands.close()
    if message:
        program, numbers = json.loads(message)
        copies = [fcntl.fcntl(one, fcntl.F_DUPFD, max(numbers) + 1) for one in given]
        for one in given:
            os.close(one)
        for copy, number in zip(copies, numbers, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        exec(program, {})
