"""An engine that runs vLLM in a process of its own. Only plain data cross the process boundary.

If vLLM's engine dies, its caller may wait for ever. So this side waits with a deadline, kills the
whole process group after any error, and starts a new process when the next merge is loaded. Inside
the process vLLM runs without further processes of its own, except for tensor parallelism.
"""

import logging
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from objectives import errors
from objectives.engines.engine import Answer, Prompt
from objectives.errors import EngineDeadError, EngineError, EngineTimeoutError
from objectives.merge.recipe import Recipe

from .child import Child, acquire
from .settings import Settings

log = logging.getLogger(__name__)

_END_SECONDS = 10.0


class VllmEngine:
    """Holds one model in vLLM; `load` overwrites its weights."""

    def __init__(self, settings: Settings, deadline: float, start_deadline: float) -> None:
        """Start vLLM.

        A load or a call of `answer` may take `deadline` seconds; the start, which opens the
        sources, may take `start_deadline` seconds. Raises EngineError and SourceError.
        """
        self._settings, self._deadline, self._start_deadline = settings, deadline, start_deadline
        self._prompts: list[Prompt] = []
        """All prompts so far. Each is sent to the process only once."""
        self._numbers: dict[int, int] = {}
        """The index of each prompt in that list, by the prompt's id()."""
        self._child: Child | None = None
        self._start()

    @property
    def pid(self) -> int | None:
        """The id of the process that runs vLLM; None if there is none."""
        return None if self._child is None else self._child.process.pid

    def load(self, recipe: Recipe) -> None:
        """Merge and overwrite the model's weights; restarts vLLM if necessary.

        Raises EngineError and SourceError.
        """
        self._use_config_of(recipe)
        if self._child is None:
            log.info("restarting vLLM")
            self._start()
        self._call("load", recipe.to_dict())

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Return one greedy answer for each prompt, in their order. Raises EngineError."""
        if self._child is None:
            raise EngineDeadError("vLLM is not running: a merge must be loaded first")
        numbers = [self._number(prompt) for prompt in prompts]
        new = self._prompts[self._child.prompts_sent :]
        answers: list[Answer] = self._call("answer", numbers, new)
        self._child.prompts_sent += len(new)
        return answers

    def _use_config_of(self, recipe: Recipe) -> None:
        """End vLLM if it runs with another model's config, because it cannot change it."""
        label = self._settings.config_labels.get(recipe.copied_model or "")
        if label != self._settings.config_label:
            log.info("restarting vLLM with the config of %s", label or "the merge")
            self.close()
            self._settings = replace(self._settings, config_label=label)

    def close(self) -> None:
        """End the process; it gets some time to release its resources."""
        child, self._child = self._child, None
        if child is not None:
            child.end(0.0 if child.busy else _END_SECONDS)

    def _number(self, prompt: Prompt) -> int:
        number = self._numbers.setdefault(id(prompt), len(self._prompts))
        if number == len(self._prompts):
            self._prompts.append(prompt)
        return number

    def _start(self) -> None:
        start = time.monotonic()
        self._child = acquire(self._settings.environment)
        try:
            self._child.connection.send(self._settings)
            report = self._wait(self._start_deadline, "start")
        except OSError:
            raise self._dead() from None
        except BaseException:  # a signal: the caller has no engine yet that it could close
            self._kill()
            raise
        for name, text in report:
            logging.getLogger(name).info(text)
        log.info("vLLM started in %.0f s", time.monotonic() - start)

    def _call(self, verb: str, *arguments: Any) -> Any:
        """Run a command in the process and return its result. Raises EngineError."""
        assert self._child is not None
        self._child.busy = True
        try:
            self._child.connection.send((verb, *arguments))
        except OSError:
            raise self._dead() from None
        return self._wait(self._deadline, verb)

    def _wait(self, seconds: float, verb: str) -> Any:
        """Return the process's reply. Any error ends the process. Raises EngineError."""
        assert self._child is not None
        try:
            if not self._child.connection.poll(seconds):
                self._kill()
                raise EngineTimeoutError(f"vLLM did not {verb} within {seconds:g} s")
            kind, value = self._child.connection.recv()
        except (EOFError, OSError):
            raise self._dead() from None
        if kind == "done":
            self._child.busy = False
            return value
        self._kill()
        raise getattr(errors, kind, EngineError)(value)

    def _dead(self) -> EngineError:
        assert self._child is not None
        process = self._child.process
        process.join(_END_SECONDS)
        code = process.exitcode
        self._kill()
        if code is not None and code < 0:
            return EngineDeadError(f"vLLM's process was killed by {signal.Signals(-code).name}")
        return EngineDeadError(f"vLLM's process ended unexpectedly (exit code {code})")

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end(0.0)
