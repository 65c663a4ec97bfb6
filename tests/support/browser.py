"""Open pages in headless Chromium, driven through its debugging pipe: no port, no driver, no
further package.

The protocol is that of https://chromedevtools.github.io/devtools-protocol: JSON messages that end
with a NUL. A session has one page.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking"),
)
_WITH_PIPES = 'exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null'
"""A shell's command: Chromium reads commands from descriptor 3 and writes answers to 4."""
_CHUNK = 1 << 16


class BrowserError(Exception):
    """Chromium refused a command or ended."""


@dataclass
class Observed:
    """What a page did since it was opened."""

    requests: list[str] = field(default_factory=list)
    """The URLs of all requests, also those that the page or the browser blocked."""
    messages: list[str] = field(default_factory=list)
    """Messages of the console, exceptions, and complaints of the browser about the page."""


def chromium() -> str | None:
    """Return the path of Chromium, or None if it is not installed."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """A browser with one page."""

    def __init__(self, commands: int, events: int) -> None:
        """Use these file descriptors: one to write commands to, one to read answers from."""
        self._commands, self._events = commands, events
        self._unread = b""
        self._sent = 0
        self._session: str | None = None
        self._loaded = False
        self.observed = Observed()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, page: Path, width: int, scheme: str = "light", medium: str = "screen") -> None:
        """Open a file in a window of this width, with a preferred colour scheme and a medium,
        `screen` or `print`. Return when it is loaded."""
        self.observed, self._loaded = Observed(), False
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", media=medium, features=features)
        self._call("Page.navigate", url=page.resolve().as_uri())
        while not self._loaded:
            self._read()

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page, as JSON has it.

        Raises BrowserError if it throws.
        """
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise BrowserError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key: `Tab` or `Enter`."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **(text if kind == "keyDown" else {}),
            )

    def close(self) -> None:
        """Ask the browser to end, with all its processes."""
        self._session = None
        self._call("Browser.close")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command, and return its answer."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._sent:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def _read(self) -> dict[str, Any]:
        """Return the next message, and note what it says about the page."""
        while b"\0" not in self._unread:
            chunk = os.read(self._events, _CHUNK)
            if not chunk:
                raise BrowserError("Chromium has ended")
            self._unread += chunk
        text, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        parameters = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.observed.requests.append(parameters["request"]["url"])
            case "Runtime.consoleAPICalled":
                self.observed.messages.append(str(parameters["args"]))
            case "Runtime.exceptionThrown":
                self.observed.messages.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded":
                self.observed.messages.append(parameters["entry"]["text"])
        return message


@contextlib.contextmanager
def started(program: str) -> Iterator[Browser]:
    """Start Chromium with an empty profile; end it afterwards."""
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []  # it does not start as root with one
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        words = [program, *_OPTIONS, *sandbox, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            ["sh", "-c", _WITH_PIPES, "sh", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                browser = Browser(process.stdin.fileno(), process.stdout.fileno())
                yield browser
                browser.close()
                process.wait()
            finally:
                process.kill()
