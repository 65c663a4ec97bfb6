"""Writes conversations with the chat template of a tokenizer, in bounded time and memory.

A chat template comes with a model, so it is not trusted: a loop in it may never end and a product
may exceed the memory. transformers bounds neither, so it renders the template in a child process.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

SECONDS = 10.0
"""The time limit of a conversation."""
MAX_BYTES = 1 << 30
"""The additional memory that the child process may use."""
MAX_TEXT = 4_000_000
"""The maximum number of characters of a conversation."""

Messages = Sequence[Mapping[str, str]]


class ChatTemplateError(Exception):
    """The chat template failed, or exceeded a limit; the message is the reason."""


class Conversations:
    """Writes conversations. Its child process starts with the first one, and ends with this object
    or with this process."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._connection: Connection | None = None
        self._stop: Finalize | None = None

    def text(self, messages: Messages, **options: Any) -> str:
        """Return a conversation as text; `options` are those of `apply_chat_template`.

        Raises ChatTemplateError.
        """
        connection = self._connection or self._started()
        answer: tuple[bool, str] | None = None
        with contextlib.suppress(EOFError, OSError):
            connection.send((list(messages), options))
            if not connection.poll(SECONDS):
                self._end()
                raise ChatTemplateError(f"it does not end within {SECONDS:.0f} s")
            answer = connection.recv()
        if answer is None:
            self._end()
            raise ChatTemplateError("it ended its process, probably for want of memory")
        succeeded, text = answer
        if not succeeded:
            raise ChatTemplateError(text)
        return text

    def _started(self) -> Connection:
        # The child is a copy of this process, because a tokenizer may not be picklable.
        context = multiprocessing.get_context("fork")
        self._connection, other = context.Pipe()
        arguments = (self._tokenizer, other, self._connection)
        process = context.Process(target=_serve, args=arguments, name="chat template", daemon=True)
        with warnings.catch_warnings():
            # The child runs only Jinja, so the locks of other threads do not matter to it.
            warnings.filterwarnings("ignore", message=".*multi-threaded", category=Warning)
            process.start()
        other.close()
        self._stop = Finalize(self, _kill, (process, self._connection))
        return self._connection

    def _end(self) -> None:
        if self._stop is not None:
            self._stop()
        self._connection = self._stop = None


def _kill(process: Any, connection: Connection) -> None:
    connection.close()
    process.kill()
    process.join()


def _serve(tokenizer: Any, connection: Connection, parents_end: Connection) -> None:
    """Answer requests until the parent closes its end of the connection."""
    parents_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this process ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _limit_memory()
    with contextlib.suppress(EOFError, OSError):
        while True:
            messages, options = connection.recv()
            connection.send(_answer(tokenizer, messages, options))
    os._exit(0)


def _answer(tokenizer: Any, messages: Messages, options: dict[str, Any]) -> tuple[bool, str]:
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except MemoryError:
        return False, f"it needs more than {MAX_BYTES >> 30} GiB of memory"
    except Exception as error:  # a template may cause any error
        return False, " ".join(str(error).split())[:200] or type(error).__name__
    if len(text) > MAX_TEXT:
        return False, f"its text is longer than {MAX_TEXT:,} characters"
    return True, text


def _limit_memory() -> None:
    """Limit the address space of this process to its present size and MAX_BYTES more."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + MAX_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or size < hard:
            resource.setrlimit(resource.RLIMIT_AS, (size, hard))
