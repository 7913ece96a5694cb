"""`fmct` and scripts in processes forked from one that has imported the libraries, which takes longer.

A command runs in a process of its own with the caller's words, folder, environment, umask and streams, and
imports this tree's modules itself, as do its worker processes (tests/forked_workers.py); it is killed when
its caller ends. It ends without freeing the libraries. What Python and libraries read from the environment
when they start is the common parent's: another PYTHONPATH has no effect, other variables of `read_at_start`
are refused. Other tests start `fmct` as users do: `start_training`, jobs on the cluster, those of signals and
of imports. tests/unit/test_submodules.py finds imports that a module lacks.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from forked_workers import fork_server
from process_groups import end_with

LIBRARIES = (
    *("torch", "sklearn.linear_model", "sklearn.neighbors", "nvidia.dali.fn", "numba", "pyarrow.parquet"),
    *("scipy.linalg", "scipy.ndimage", "scipy.stats", "pydantic", "typer", "rich", "yaml", "numcodecs"),
    *("pydicom", "PIL.Image", "jinja2", "safetensors.torch", "sklearn.manifold"),
    *("matplotlib.figure", "matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg"),
)
CLIENT = """
import json, os, socket, sys
umask = os.umask(0)
request = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ), umask]).encode()
try:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect("\\0" + sys.argv[1])
        socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(request)
        code = int(server.recv(16))
except (OSError, ValueError):
    print("tests/forked_commands.py: no answer from the process to fork from", file=sys.stderr)
    code = 125  # as env(1), where it fails itself
sys.exit(code)
"""


def forked_fmct() -> tuple[str, ...]:
    """The command line, without arguments, of such an `fmct`."""
    return (*forked_python(), "-m", "launch.cli")


@cache
def forked_python() -> tuple[str, ...]:
    """The command line of such a `python`, for a script, - or -m and a module; starts the common parent.

    As with `python -P`, a script's folder is not on its path. An end by signal N is exit code 128 + N.
    """
    name = f"fmct-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)  # unix(7): an abstract address, which ends with its socket
        listener.listen(64)
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        parent = subprocess.Popen(
            [sys.executable, "-P", __file__, str(listener.fileno())],
            env=environment,
            stdin=subprocess.PIPE,  # at whose end it ends
            stdout=subprocess.PIPE,  # a stream without positions, as that of most commands
            pass_fds=[listener.fileno()],
        )
    atexit.register(parent.__exit__, None, None, None)  # close its streams, and wait
    return (sys.executable, "-I", "-S", "-c", CLIENT, name)


def serve(listener: socket.socket) -> None:
    """Fork a process for each command, which waits for the command's own and returns its exit code."""
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        caller, _ = listener.accept()
        if os.fork():
            caller.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            continue
        listener.close()
        answer(caller)


def answer(caller: socket.socket) -> NoReturn:
    """Run a command in a process of its own; end it with its caller."""
    _, user, _ = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if user != os.getuid():  # an abstract address has no permissions
        os._exit(0)
    size, streams, _, _ = socket.recv_fds(caller, 8, 3)
    with caller.makefile("rb") as stream:
        request = json.loads(stream.read(int.from_bytes(size, "big")))
    this = os.getpid()
    command = os.fork()
    if not command:
        caller.close()
        end_with(this)
        be_command(streams, *request)
    for given in streams:
        os.close(given)
    ended = os.pidfd_open(command)
    if ended not in select.select([caller.fileno(), ended], [], [])[0]:
        os.kill(command, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    with suppress(BrokenPipeError):
        caller.sendall(b"%d" % (code if code >= 0 else 128 - code))
    os._exit(0)


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that Python or libraries read when they start."""
    names = ("OMP_NUM_THREADS", "PYTHONHASHSEED", "PYTHONWARNINGS")
    return {name: environment[name] for name in environment if name in names or name.startswith("NUMBA_")}


def be_command(
    streams: list[int], words: list[str], folder: str, environment: dict[str, str], umask: int
) -> NoReturn:
    """Take the caller's place, run the command, and end."""
    for number, given in enumerate(streams):
        os.dup2(given, number)
        os.close(given)
    environment = {"OMP_NUM_THREADS": "1", **environment}
    ours, theirs = read_at_start(os.environ), read_at_start(environment)
    if ours != theirs:
        print(f"tests/forked_commands.py: {theirs} can't replace {ours}", file=sys.stderr)
        sys.exit(125)
    os.chdir(folder)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environment)
    fork_server()
    code = 0
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-":
            sys.argv = words
            sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(sys.stdin.read(), "<stdin>", "exec"), vars(sys.modules["__main__"]))
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        code = exit_code(ended)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    end(code)


def exit_code(ended: SystemExit) -> int:
    """As Python's own: a message is printed, and means 1."""
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or 0
    print(ended.code, file=sys.stderr)
    return 1


def end(code: int) -> NoReturn:
    """End as Python does, without freeing the libraries, which would copy the pages of all their objects."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    import numba

    with socket.socket(fileno=int(sys.argv[1])) as listener:
        gc.disable()  # until all is there: each search for garbage would go through all of it
        for library in LIBRARIES:
            importlib.import_module(library)
        numba.njit(lambda: 0)()  # which imports all that compiled functions need
        gc.freeze()
        gc.enable()
        serve(listener)
