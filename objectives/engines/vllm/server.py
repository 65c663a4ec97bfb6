"""The process that runs vLLM. Every call of vLLM's stands here and in extension.py.

Tried with vLLM 0.26 on a GPU and with 0.32's build for CPUs.
"""

import contextlib
import importlib
import json
import math
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from objectives.crash_report import write_fault
from objectives.engines.engine import Answer, Prompt, said
from objectives.engines.host_memory import available
from objectives.engines.memory import groups_within, kv_tokens_for, sizes
from objectives.errors import EngineError, EngineMemoryError, SourceError
from objectives.models.sources import Sources

from .settings import EXTENSION, SIZES, Settings

_MOST_LOGPROBS = 128
"""vLLM's limit on logprob_token_ids."""


def serve(connection: Connection) -> None:
    """Take Settings, start vLLM and do what comes over the connection, until that is closed."""
    try:
        with _watched(), contextlib.suppress(ImportError):  # Host says what is wrong with it
            _import()
        try:
            settings = connection.recv()
        except EOFError:
            return
        host: Host = _attempt(connection, lambda: Host(settings))
        connection.send(("done", host.report))
        while True:
            try:
                verb, *arguments = connection.recv()
            except EOFError:
                host.close()
                return
            work = partial(host.load if verb == "load" else host.answer, *arguments)
            connection.send(("done", _attempt(connection, work)))
    finally:
        _leave()


def _import() -> None:
    """All that vLLM imports by and by; it takes many seconds, which Settings need not wait for."""
    importlib.import_module(EXTENSION.rpartition(".")[0])
    from vllm import LLM  # noqa: F401

    importlib.import_module("vllm.v1.worker.gpu_worker")  # the CPU's stands on it


def _attempt(connection: Connection, work: Any) -> Any:
    """Do it while watching that the other side is still there; an error crosses by its name."""
    with _watched():
        try:
            return work()
        except Exception as error:
            connection.send(_named(error))
            raise SystemExit(1) from None


def _named(error: Exception) -> tuple[str, str]:
    """The EngineError that stands for an error, or SourceError, and what it says."""
    if isinstance(error, torch.OutOfMemoryError):
        return EngineMemoryError.__name__, f"out of memory: {_first_line(error)}"
    if isinstance(error, EngineError | SourceError):
        return type(error).__name__, str(error)
    if isinstance(error, ValidationError):  # of what is asked of vLLM; its first line is a count
        return EngineError.__name__, "vLLM: " + "; ".join(
            ".".join(map(str, problem["loc"]))
            + (": " if problem["loc"] else "")
            + problem["msg"].removeprefix("Value error, ")
            for problem in error.errors()
        )
    path = write_fault(error)
    details = "" if path is None else f"; its traceback is in {path}"
    return EngineError.__name__, f"{type(error).__name__}: {_first_line(error)}{details}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


@contextlib.contextmanager
def _watched() -> Any:
    """While at work, end with the process that wants it."""
    over = threading.Event()
    parent = os.getppid()

    def watch() -> None:
        while not over.wait(1.0):
            if os.getppid() != parent:
                _leave()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _leave() -> None:
    """End this process and all it started, at once."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


class Host:
    """vLLM's engine, in this process."""

    def __init__(self, settings: Settings) -> None:
        if settings.threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(settings.threads)  # of processes that vLLM starts
            torch.set_num_threads(settings.threads)
        opened = (
            *(settings.reference, settings.tokenizer_source, settings.has_base),
            settings.config_source,
        )
        sources = Sources({k: Path(v) for k, v in settings.folders.items()}, *opened)
        config = sources.merged_config(settings.dtype, settings.config_label)
        self._ends = sources.end_tokens(settings.generation_ends)
        kv_tokens = kv_tokens_for(settings.batch_tokens, settings.longest)
        needed = sizes(
            sources,
            settings.dtype,
            settings.batch_tokens,
            settings.sequences,
            kv_tokens,
            settings.tensor_parallel_size,
            settings.method,
        )
        place = "cpu"
        self.report: list[tuple[str, str]] = []
        """What to log, each with the logger's name."""
        if settings.device == "cuda":
            free, _ = torch.cuda.mem_get_info()
            share = settings.host_memory
            host = available() if share is None else min(share, available())
            place = needed.place(settings.place, free, host)
            self.report = [
                (__name__, f"sources: {place}"),
                (SIZES, f"what takes how much:\n{needed.table(free, host)}"),
            ]
        with tempfile.TemporaryDirectory(prefix="study-") as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            _look_at(config.get("architectures", ()))
            self._llm = self._start(settings, folder, needed.kv_cache)
        self._llm.collective_rpc("study_open", args=(dict(settings.folders), opened, place))
        self._batch_tokens, self._kv_tokens = settings.batch_tokens, kv_tokens
        self._prepared: list[tuple[Prompt, Any, Any]] = []
        """Every prompt so far, with vLLM's form of it and its sampling parameters."""
        self._parameters: dict[tuple[int, tuple[int, ...], frozenset[int]], Any] = {}
        """One object for all prompts that are alike."""

    def _start(self, settings: Settings, folder: str, kv_cache: int) -> Any:
        """vLLM's engine with weights of no meaning, in the shapes of a folder's config.json."""
        from vllm import LLM

        return LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            generation_config="vllm",
            dtype=settings.dtype,
            max_model_len=settings.longest,
            max_num_batched_tokens=settings.batch_tokens,
            max_num_seqs=settings.sequences,
            kv_cache_memory_bytes=kv_cache,
            gpu_memory_utilization=0.05,  # it refuses to start where less is free: we have counted
            tensor_parallel_size=settings.tensor_parallel_size,
            enforce_eager=settings.eager,
            enable_prefix_caching=True,
            worker_extension_cls=settings.extension,
            disable_log_stats=True,
            seed=0,
        )

    def close(self) -> None:
        """Let vLLM tidy up; whoever waits for that kills the process if it takes long."""
        self._llm.llm_engine.engine_core.shutdown()

    def load(self, recipe: Mapping[str, Any]) -> None:
        """Merge into the live model."""
        self._llm.collective_rpc("study_load", args=(dict(recipe),))
        self._drop_prefixes()

    def answer(self, numbers: Sequence[int], new: Sequence[Prompt]) -> list[Answer]:
        """Answers to prompts by their numbers; `new` are the next ones that have none yet."""
        from vllm.inputs import tokens_input

        self._prepared += [(p, tokens_input(list(p.tokens)), self._sampling(p)) for p in new]
        asked = [self._prepared[number] for number in numbers]
        answers = dict(self._answers(asked))
        if broken := [place for place, answer in answers.items() if not answer.finite]:
            for group in self._groups(asked, broken):
                self._forget()
                again = dict(self._answers([asked[place] for place in group]))
                answers |= {place: again[i] for i, place in enumerate(group)}
            self._forget()
        return [answers[place] for place in range(len(asked))]

    def _groups(
        self, asked: Sequence[tuple[Prompt, Any, Any]], places: Sequence[int]
    ) -> Iterator[list[int]]:
        """Places in groups small enough that none of a group gets a block of the KV cache that
        another of it has used: what is NaN in one is then in no other.
        """
        block = self._llm.llm_engine.vllm_config.cache_config.block_size
        prompts = {place: asked[place][0] for place in places}
        return groups_within(
            self._kv_tokens,
            {place: len(p.tokens) + p.max_tokens + block for place, p in prompts.items()},
        )

    def _forget(self) -> None:
        """Empty the KV cache, and let nothing take its zeros for a prefix."""
        self._llm.collective_rpc("study_clear")
        self._drop_prefixes()

    def _drop_prefixes(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM did not drop the prefixes of the merge before")

    def _answers(self, asked: Sequence[tuple[Prompt, Any, Any]]) -> Iterator[tuple[int, Answer]]:
        """The answer to each, with its place, as they are finished.

        Prompts are handed over a step's worth at a time, and answers read as they come, while
        the device computes; those with the most tokens to write go first, so that no step is left
        to them alone.
        """
        engine = self._llm.llm_engine
        waiting = deque(sorted(enumerate(asked), key=lambda item: -item[1][0].max_tokens))
        while waiting or engine.has_unfinished_requests():
            tokens = 0
            while waiting and tokens < self._batch_tokens:
                place, (prompt, given, parameters) = waiting.popleft()
                engine.add_request(str(place), given, parameters)
                tokens += len(prompt.tokens) - prompt.shared
            for output in engine.step():
                place = int(output.request_id)
                yield place, self._answer(asked[place][0], output.outputs[0])

    def _sampling(self, prompt: Prompt) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        options = tuple(dict.fromkeys(prompt.options))
        if len(options) > _MOST_LOGPROBS:
            raise EngineError(
                f"a question has {len(options)} options; vLLM gives the log-probabilities "
                f"of {_MOST_LOGPROBS}"
            )
        kind = (prompt.max_tokens, options, prompt.stops)
        if kind not in self._parameters:
            self._parameters[kind] = SamplingParams(
                temperature=0.0,
                max_tokens=prompt.max_tokens,
                stop_token_ids=[*self._ends.all, *prompt.stops],
                logprobs=None if options else 0,
                logprob_token_ids=list(options) or None,
                flat_logprobs=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_clone=True,  # a deep copy for every prompt; nothing here is changed by it
            )
        return self._parameters[kind]

    def _answer(self, prompt: Prompt, output: Any) -> Answer:
        given = output.logprobs
        first = slice(given.start_indices[0], given.end_indices[0])
        known = dict(zip(given.token_ids[first], given.logprobs[first], strict=True))
        tokens = said(output.token_ids, prompt, self._ends.dropped, self._ends.kept)
        logprobs = tuple(known[token] for token in prompt.options)
        finite = all(map(math.isfinite, given.logprobs))
        return Answer(tokens, logprobs, finite)


def _look_at(architectures: Sequence[str]) -> None:
    """Have vLLM look at the model's class here; else it starts a Python of its own to do that."""
    from vllm import ModelRegistry

    for name in architectures:
        if (model := ModelRegistry.models.get(name)) is not None:
            ModelRegistry.register_model(name, model.load_model_cls())
