"""A dashboard as a process, and requests to it."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message

from tests.support.paths import ROOT


class Server:
    """A server process, and requests to it."""

    def __init__(self, words: list[str], environment: Mapping[str, str] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            [*words, "--port", str(self.port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        while self.request("/")[0] == 0:
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.1)

    def request(
        self, path: str, method: str = "GET", body: bytes = b"{}", **headers: str
    ) -> tuple[int, str]:
        """Return the status and the body; the status is 0 if the server does not listen yet."""
        message = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", method=method, headers=headers
        )
        if method in ("POST", "PUT"):
            message.data = body
            message.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(message, timeout=30) as response:
                return response.status, response.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (urllib.error.URLError, ConnectionError):
            return 0, ""

    def headers(self, path: str) -> Message:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as response:
                return response.headers
        except urllib.error.HTTPError as error:
            return error.headers

    def close(self) -> str:
        """End the server; return its log without the line that names the study."""
        self.process.terminate()
        lines = self.process.communicate()[1].splitlines(keepends=True)
        return "".join(line for line in lines if " study " not in line)
