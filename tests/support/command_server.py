"""A process that has imported the commands once, and forks to run each of them.

Importing torch, transformers and Optuna takes longer than most commands do. A forked process runs
the same `python -m study.COMMAND` as a new one would: its own environment, folder, streams, signals
and exit code. Tests of starting, of imports and of signals start new processes instead.
"""

import array
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

_MAX_REQUEST = 1 << 16
_WARM = (
    "objectives.engines.transformers",
    "study.artifacts.check",
    "study.artifacts.finish",
    "study.planning.estimate",
    "study.worker.observe",
    "study.worker.start",
    "study.worker.worker",
)
"""Modules that commands import when they need them."""


class CommandServer:
    """Starts the process when it is first needed; it ends with its parent's socket folder."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="commands-")
        self._address = Path(self._folder.name) / "socket"
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def run(
        self, name: str, words: list[str], folder: Path, timeout: float
    ) -> tuple[int, str, str]:
        """Return the exit code of a command, and what it wrote to stdout and stderr."""
        self._start()
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client,
        ):
            client.connect(str(self._address))
            request = {"name": name, "words": words, "folder": str(folder), "env": dict(os.environ)}
            descriptors = array.array("i", [out.fileno(), err.fileno()])
            client.sendmsg(
                [json.dumps(request).encode()],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)],
            )
            client.settimeout(timeout)
            pid = int(client.recv(100))
            try:
                code = int(client.recv(100))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired([name, *words], timeout) from None
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode().replace("\r\n", "\n"))
        return code, texts[0], texts[1]

    def _start(self) -> None:
        if self._process is None:
            words = [sys.executable, "-m", __name__, str(self._address)]
            self._process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
            assert self._process.stdout is not None
            assert self._process.stdout.readline() == b"ready\n"

    def __del__(self) -> None:
        if self._process is not None and os.getpid() == self._owner:
            self._process.kill()
            self._process.wait()


def _serve(address: str) -> None:
    for module in _WARM:
        __import__(module)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # waits for the processes that answer
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    """Run a command in a process of its own, and send its number and its exit code."""
    data, ancillary, *_ = connection.recvmsg(_MAX_REQUEST, socket.CMSG_LEN(2 * 4))
    descriptors = array.array("i")
    descriptors.frombytes(ancillary[0][2][: 2 * descriptors.itemsize])
    child = os.fork()
    if child == 0:
        connection.close()
        _become(json.loads(data), *descriptors)
    connection.send(str(child).encode())
    status = os.waitpid(child, 0)[1]
    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(request: dict[str, Any], out: int, err: int) -> None:
    """Run the command as the main module of this process, which then ends."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, number in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    module = f"study.{request['name']}"
    sys.argv = [module, *request["words"]]
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
