"""`fmct` and scripts in processes forked from one that has imported the libraries, which takes longer.

A command runs in a process of its own with the caller's words, folder, environment, umask and streams, and
imports this tree's modules itself, or those of its PYTHONPATH, as do its worker processes
(tests/forked_workers.py) and the ranks and scripts that it starts; it is killed when its caller ends. It ends
without freeing the libraries. Other variables that Python and libraries read when they start are refused
(`read_at_start`). Other tests start `fmct` as users do: `start_training`, jobs on the cluster, those of
signals and of imports. tests/unit/test_submodules.py finds imports that a module lacks.

pytest's process starts one such parent for all of its worker processes (tests/conftest.py); it imports the
libraries at the first command.
"""

import ast
import atexit
import ctypes
import gc
import importlib
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
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from forked_workers import fork_server
from process_groups import end_with

COMMON = "FMCT_TEST_COMMON_PARENT"
"""The variable that names the common parent's socket to the processes that tests start."""

LIBRARIES = (
    *("torch", "sklearn.linear_model", "sklearn.neighbors", "nvidia.dali.fn", "numba", "pyarrow.parquet"),
    *("scipy.linalg", "scipy.ndimage", "scipy.stats", "pydantic", "typer", "rich", "yaml", "numcodecs"),
    *("pydicom", "PIL.Image", "jinja2", "safetensors.torch", "sklearn.manifold"),
    *("matplotlib.figure", "matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg"),
    *("deepspeed.ops", "torch.utils.tensorboard"),
)
CLIENT = """
import _socket, os, sys
umask = os.umask(0)
request = ascii((sys.argv[2:], os.getcwd(), dict(os.environ), umask)).encode()
streams = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
try:
    server = _socket.socket(_socket.AF_UNIX)
    server.connect("\\0" + sys.argv[1])
    size = len(request).to_bytes(8, "big")
    server.sendmsg([size], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
    server.sendall(request)
    code = int(server.recv(16))
except (OSError, ValueError):
    print("tests/forked_commands.py: no answer from the process to fork from", file=sys.stderr)
    code = 125  # as env(1), where it fails itself
sys.exit(code)
"""
"""Without the modules `json` and `socket`, which take longer to import than Python to start."""

RANK = [sys.executable, "-P", "-m", "launch.cli"]
"""The beginning of the command by which `fmct train` starts a rank."""

MADV_COLLAPSE = 25
"""madvise(2), since Linux 6.1."""
HUGE = 2**21
"""Bytes of a huge page."""


def forked_fmct() -> tuple[str, ...]:
    """The command line, without arguments, of such an `fmct`."""
    return (*forked_python(), "-m", "launch.cli")


def forked_python() -> tuple[str, ...]:
    """The command line of such a `python -P`, for a script, -, -c and a text, or -m and a module.

    Starts the common parent. An end by signal N is exit code 128 + N.
    """
    if COMMON not in os.environ:
        os.environ[COMMON] = start_parent()
    return client(os.environ[COMMON])


def client(name: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", CLIENT, name)


def start_parent() -> str:
    """Start a process that waits for commands, and ends with this process; the name of its socket."""
    name = f"fmct-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)  # unix(7): an abstract address, which ends with its socket
        listener.listen(64)
        tests = Path(__file__).parent
        path = os.pathsep.join([str(tests.parent), str(tests), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        parent = subprocess.Popen(
            [sys.executable, "-P", __file__, str(listener.fileno()), name],
            env=environment,
            stdin=subprocess.PIPE,  # at whose end it ends
            stdout=subprocess.PIPE,  # a stream without positions, as that of most commands
            pass_fds=[listener.fileno()],
        )
    atexit.register(parent.__exit__, None, None, None)  # close its streams, and wait
    return name


def serve(listener: socket.socket, name: str) -> None:
    """Fork a process for each command; send its exit code to its caller, or kill it when the caller ends."""
    this, events = os.getpid(), select.poll()
    running: dict[int, tuple[int, socket.socket]] = {}  # by process descriptor: number, caller
    events.register(listener, select.POLLIN)
    events.register(sys.stdin, select.POLLIN)
    while True:
        for ready, _ in events.poll():
            if ready == sys.stdin.fileno():
                return
            if ready == listener.fileno():
                caller, _ = listener.accept()
                command = os.fork()
                if not command:
                    listener.close()
                    for descriptor, (_, other) in running.items():
                        os.close(descriptor)
                        other.close()
                    end_with(this)
                    be_command(name, *received(caller))
                descriptor = os.pidfd_open(command)
                running[descriptor] = (command, caller)
                events.register(descriptor, select.POLLIN)
                events.register(caller, select.POLLRDHUP)
            elif ready in running:
                command, caller = running.pop(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
                with suppress(OSError):
                    caller.sendall(b"%d" % (code if code >= 0 else 128 - code))
                events.unregister(ready)
                os.close(ready)
                with suppress(KeyError):
                    events.unregister(caller)
                caller.close()
            else:
                for command, caller in running.values():
                    if caller.fileno() == ready:
                        os.kill(command, signal.SIGKILL)
                        events.unregister(caller)


def received(caller: socket.socket) -> tuple[Any, ...]:
    """The streams of a command, and its words, folder, environment and umask."""
    _, user, _ = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if user != os.getuid():  # an abstract address has no permissions
        os._exit(0)
    size, streams, _, _ = socket.recv_fds(caller, 8, 3)
    with caller, caller.makefile("rb") as stream:
        return (streams, *ast.literal_eval(stream.read(int.from_bytes(size, "big")).decode()))


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that Python or libraries read when they start."""
    names = ("OMP_NUM_THREADS", "PYTHONHASHSEED", "PYTHONWARNINGS")
    return {name: environment[name] for name in environment if name in names or name.startswith("NUMBA_")}


def be_command(
    name: str, streams: list[int], words: list[str], folder: str, environment: dict[str, str], umask: int
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
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    fork_server()
    fork_children(name)
    code = 0
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] in ("-", "-c"):
            text = sys.stdin.read() if words[0] == "-" else words.pop(1)
            sys.argv = words
            sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(text, "<stdin>", "exec"), vars(sys.modules["__main__"]))
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        code = exit_code(ended)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    end(code)


def fork_children(name: str) -> None:
    """Have the ranks and scripts that this process starts be forked from the common parent too."""

    class Started(subprocess.Popen[Any]):
        def __init__(self, args: Any, *others: Any, **options: Any) -> None:
            words = args if isinstance(args, list) else []
            if words[: len(RANK)] == RANK:
                args = [*client(name), *words[2:]]
            elif len(words) > 1 and words[0] == sys.executable and str(words[1]).endswith(".py"):
                args = [*client(name), *words[1:]]
            super().__init__(args, *others, **options)

    subprocess.Popen = Started  # type: ignore[misc]


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


def use_huge_pages() -> None:
    """Gather this process's memory in huge pages, where Linux can: a fork then takes a third of the time."""
    advise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, access, *_, file = [*line.split(maxsplit=5), ""][:6]
        if access == "rw-p" and file in ("", "[heap]"):
            first, last = (int(end, 16) for end in place.split("-"))
            first, last = -(-first // HUGE) * HUGE, last // HUGE * HUGE
            if first < last:
                advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), MADV_COLLAPSE)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            sys.exit()
        os.environ["DS_ACCELERATOR"] = "cpu"  # as fmct_hpc.train.process_group sets it
        gc.disable()  # until all is there: each search for garbage would go through all of it
        for library in LIBRARIES:
            importlib.import_module(library)
        import numba

        numba.njit(lambda: 0)()  # which imports all that compiled functions need
        gc.freeze()
        gc.enable()
        use_huge_pages()
        serve(listener, sys.argv[2])
