"""`fmct` in processes forked from one that has imported the libraries, which take longer than small commands.

A command runs in a process of its own with the caller's words, folder, environment, umask and streams, and
imports this tree's modules itself. Other tests start `fmct` as users do: `start_training`, those on the
cluster, those of signals and of imports.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
from contextlib import suppress
from functools import cache

LIBRARIES = (
    *("torch", "sklearn.linear_model", "sklearn.neighbors", "nvidia.dali.fn", "numba", "pyarrow.parquet"),
    *("scipy.linalg", "scipy.ndimage", "scipy.stats", "pydantic", "typer", "rich", "yaml", "numcodecs"),
    *("pydicom", "PIL.Image", "jinja2", "safetensors.torch"),
)
CLIENT = """
import json, os, socket, sys
umask = os.umask(0)
with socket.socket(socket.AF_UNIX) as server:
    server.connect("\\0" + sys.argv[1])
    request = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ), umask]).encode()
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    code = server.recv(16)
sys.exit(int(code))
"""


@cache
def forked_fmct() -> tuple[str, ...]:
    """The command line, without arguments, of such an `fmct`; starts their common parent."""
    name = f"fmct-test-{os.getpid()}-{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)  # unix(7): an abstract address, which ends with its socket
        listener.listen(64)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        parent = subprocess.Popen(
            [sys.executable, "-P", __file__, str(listener.fileno())],
            env=environment,
            stdin=subprocess.PIPE,  # at whose end it ends
            stdout=subprocess.PIPE,  # a stream without positions, as that of most commands
            pass_fds=[listener.fileno()],
        )
    atexit.register(parent.communicate)
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
        command = os.fork()
        if not command:
            be_command(caller)
        _, status = os.waitpid(command, 0)
        code = os.waitstatus_to_exitcode(status)
        caller.sendall(b"%d" % (code if code >= 0 else 128 - code))
        os._exit(0)


def be_command(caller: socket.socket) -> None:
    """Take the caller's place, run the command, and end."""
    size, streams, _, _ = socket.recv_fds(caller, 8, 3)
    with caller.makefile("rb") as stream:
        words, folder, environment, umask = json.loads(stream.read(int.from_bytes(size, "big")))
    caller.close()
    for number, given in enumerate(streams):
        os.dup2(given, number)
        os.close(given)
    os.chdir(folder)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["fmct", *words]
    runpy.run_module("launch.cli", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        gc.disable()  # until all is there: each search for garbage would go through all of it
        for library in LIBRARIES:
            importlib.import_module(library)
        gc.freeze()
        gc.enable()
        serve(listener)
