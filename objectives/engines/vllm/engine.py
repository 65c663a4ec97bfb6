"""vLLM in a process of its own, which merges and answers; only plain data crosses.

vLLM leaves a caller waiting for ever when its engine dies. So it runs in one process, in-process
there, and this side waits with a deadline, ends the whole group of processes at any fault, and
starts a new one when the next merge comes.
"""

import logging
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from objectives.engines import engine
from objectives.engines.engine import Answer, Prompt
from objectives.errors import EngineDeadError, EngineError, EngineTimeoutError, SourceError
from objectives.merge.recipe import MergeRecipe

from .child import Child, take
from .settings import Settings

log = logging.getLogger(__name__)

_END_SECONDS = 10.0


class VllmEngine:
    """Holds one model in vLLM; `load` merges into it."""

    def __init__(self, settings: Settings, deadline: float, start_deadline: float) -> None:
        """Start vLLM. A load or a round of questions may take `deadline` seconds, the start and
        the reading of the sources `start_deadline`. Raises EngineError and SourceError.
        """
        self._settings, self._deadline, self._start_deadline = settings, deadline, start_deadline
        self._prompts: list[Prompt] = []
        self._numbers: dict[int, int] = {}
        """Each prompt's place in that list, by its id; they cross to the process once."""
        self._child: Child | None = None
        self._start()

    @property
    def pid(self) -> int | None:
        """The process that runs vLLM, None while there is none."""
        return None if self._child is None else self._child.process.pid

    def load(self, recipe: MergeRecipe) -> None:
        self._use_config_of(recipe)
        if self._child is None:
            log.info("starting vLLM again")
            self._start()
        self._ask("load", recipe.to_dict())

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        if self._child is None:
            raise EngineDeadError("vLLM is not running: a merge must be loaded first")
        numbers = [self._number(prompt) for prompt in prompts]
        new = self._prompts[self._child.known :]
        answers: list[Answer] = self._ask("answer", numbers, new)
        self._child.known += len(new)
        return answers

    def _use_config_of(self, recipe: MergeRecipe) -> None:
        """End a vLLM that computes with the config of another model: it cannot change its own."""
        label = self._settings.config_labels.get(recipe.alone or "")
        if label != self._settings.config_label:
            log.info("vLLM starts again, with the config of %s", label or "the merge")
            self.close()
            self._settings = replace(self._settings, config_label=label)

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end(0.0 if child.busy else _END_SECONDS)

    def _number(self, prompt: Prompt) -> int:
        number = self._numbers.setdefault(id(prompt), len(self._prompts))
        if number == len(self._prompts):
            self._prompts.append(prompt)
        return number

    def _start(self) -> None:
        began = time.monotonic()
        self._child = take(self._settings.environment)
        try:
            self._child.connection.send(self._settings)
            report = self._wait(self._start_deadline, "start")
        except OSError:
            raise self._dead() from None
        except BaseException:  # a signal: nobody can close what has not started
            self._kill()
            raise
        for name, text in report:
            logging.getLogger(name).info(text)
        log.info("vLLM started in %.0f s", time.monotonic() - began)

    def _ask(self, verb: str, *arguments: Any) -> Any:
        assert self._child is not None
        self._child.busy = True
        try:
            self._child.connection.send((verb, *arguments))
        except OSError:
            raise self._dead() from None
        return self._wait(self._deadline, verb)

    def _wait(self, seconds: float, verb: str) -> Any:
        """The child's reply. Whatever is wrong ends it."""
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
        if kind == SourceError.__name__:
            raise SourceError(value)
        raise getattr(engine, kind, EngineError)(value)

    def _dead(self) -> EngineError:
        assert self._child is not None
        process = self._child.process
        process.join(_END_SECONDS)
        code = process.exitcode
        self._kill()
        if code is not None and code < 0:
            return EngineDeadError(f"vLLM's process was killed by {signal.Signals(-code).name}")
        return EngineDeadError(f"vLLM's process ended by itself (exit code {code})")

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end(0.0)
