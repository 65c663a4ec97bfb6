"""The process that runs vLLM: it serves the commands of engine.py."""

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
from objectives.engines.engine import Answer, Prompt
from objectives.engines.host_memory import available_memory
from objectives.engines.memory import groups_within, kv_tokens_for, sizes
from objectives.errors import EngineError, EngineMemoryError, SourceError
from objectives.merge.path import path_config
from objectives.merge.recipe import PathRecipe
from objectives.models.sources import Sources

from . import internals
from .settings import EXTENSION, MEMORY_LOGGER, Settings

_MAX_LOGPROBS = 128
"""vLLM's limit on logprob_token_ids."""


def serve(connection: Connection) -> None:
    """Receive Settings, start vLLM, and run commands until the connection is closed."""
    try:
        with _parent_watched(), contextlib.suppress(ImportError):  # Server reports import errors
            _import_early()
        try:
            settings = connection.recv()
        except EOFError:
            return
        server: Server = _attempt(connection, lambda: Server(settings))
        connection.send(("done", server.report))
        while True:
            try:
                verb, *arguments = connection.recv()
            except EOFError:
                server.close()
                return
            work = partial(server.load if verb == "load" else server.answer, *arguments)
            connection.send(("done", _attempt(connection, work)))
    finally:
        _kill_group()


def _import_early() -> None:
    """Import vLLM and the worker extension, which takes many seconds, while the parent prepares
    Settings.
    """
    importlib.import_module(EXTENSION.rpartition(".")[0])
    internals.import_worker()


def _attempt(connection: Connection, work: Any) -> Any:
    """Return the result of `work`. If it raises an error, send the error to the parent and exit."""
    with _parent_watched():
        try:
            return work()
        except Exception as error:
            connection.send(_described(error))
            raise SystemExit(1) from None


def _described(error: Exception) -> tuple[str, str]:
    """Return the name of the class that the parent raises for an error, and its message."""
    if isinstance(error, torch.OutOfMemoryError):
        return EngineMemoryError.__name__, f"out of memory: {_first_line(error)}"
    if isinstance(error, EngineError | SourceError):
        return type(error).__name__, str(error)
    if isinstance(error, ValidationError):  # of vLLM's arguments; the first line counts the errors
        return EngineError.__name__, "vLLM rejected its arguments: " + "; ".join(
            ".".join(map(str, problem["loc"]))
            + (": " if problem["loc"] else "")
            + problem["msg"].removeprefix("Value error, ")
            for problem in error.errors()
        )
    path = write_fault(error)
    details = "" if path is None else f"; the traceback is in {path}"
    return EngineError.__name__, f"{type(error).__name__}: {_first_line(error)}{details}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


@contextlib.contextmanager
def _parent_watched() -> Any:
    """Within this context, kill this process group if the parent process exits."""
    finished = threading.Event()
    parent = os.getppid()

    def watch() -> None:
        while not finished.wait(1.0):
            if os.getppid() != parent:
                _kill_group()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        finished.set()


def _kill_group() -> None:
    """Kill this process and all processes that it has started."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


class Server:
    """Runs vLLM's engine in this process; its workers merge the sources."""

    def __init__(self, settings: Settings) -> None:
        """Start vLLM and open the sources. Raises EngineError and SourceError."""
        if settings.threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(settings.threads)  # for processes of vLLM
            torch.set_num_threads(settings.threads)
        source_arguments = (
            *(settings.reference, settings.tokenizer_source, settings.has_base),
            settings.config_source,
        )
        sources = Sources({k: Path(v) for k, v in settings.folders.items()}, *source_arguments)
        config = sources.merged_config(settings.dtype, settings.config_label)
        if settings.max_hops is not None:
            model = PathRecipe.whole(settings.reference, sources.num_layers, settings.dtype)
            config = path_config(model.padded(settings.max_hops), sources)
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
            settings.max_hops,
        )
        residence = "cpu"
        self.report: list[tuple[str, str]] = []
        """Messages for the parent to log, each preceded by the name of its logger."""
        if settings.device == "cuda":
            free, _ = torch.cuda.mem_get_info()
            share = settings.host_memory
            host = available_memory() if share is None else min(share, available_memory())
            residence = needed.choose_residence(settings.residence, free, host)
            self.report = [
                (__name__, f"sources: {residence}"),
                (MEMORY_LOGGER, f"memory requirements:\n{needed.table(free, host)}"),
            ]
        with tempfile.TemporaryDirectory(prefix="study-") as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            internals.register_loaded_classes(config.get("architectures", ()))
            self._llm = self._start(settings, folder, needed.kv_cache)
        arguments = (dict(settings.folders), source_arguments, residence, settings.max_hops)
        self._llm.collective_rpc("study_open", args=arguments)
        self._batch_tokens, self._kv_tokens = settings.batch_tokens, kv_tokens
        self._prepared: list[tuple[Prompt, Any, Any]] = []
        """All prompts received so far, each with the vLLM prompt and its sampling parameters."""
        self._parameters: dict[tuple[int, tuple[int, ...], frozenset[int]], Any] = {}
        """Sampling parameters, shared by prompts with equal limits, options and stops."""

    def _start(self, settings: Settings, folder: str, kv_cache: int) -> Any:
        """Start vLLM with the config.json of a folder and random weights."""
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
            gpu_memory_utilization=0.05,  # passes vLLM's check; choose_residence has checked
            tensor_parallel_size=settings.tensor_parallel_size,
            enforce_eager=settings.eager,
            enable_prefix_caching=True,
            worker_extension_cls=settings.extension,
            disable_log_stats=True,
            seed=0,
        )

    def close(self) -> None:
        """Shut down vLLM. The parent kills this process if that takes too long."""
        internals.shut_down(self._llm)

    def load(self, recipe: Mapping[str, Any]) -> None:
        """Merge into the live model. Raises EngineError."""
        self._llm.collective_rpc("study_load", args=(dict(recipe),))
        self._drop_prefixes()

    def answer(self, numbers: Sequence[int], new: Sequence[Prompt]) -> list[Answer]:
        """Return the answers to the prompts with these numbers.

        `new` are the prompts that have not been sent before; they get the next numbers. Prompts
        with non-finite answers are asked again in groups, each with a cleared KV cache, because
        NaN in the cache may have come from another prompt. Raises EngineError.
        """
        from vllm.inputs import tokens_input

        self._prepared += [(p, tokens_input(list(p.tokens)), self._sampling(p)) for p in new]
        asked = [self._prepared[number] for number in numbers]
        answers = dict(self._answers(asked))
        if non_finite := [index for index, answer in answers.items() if not answer.finite]:
            for group in self._groups(asked, non_finite):
                self._clear()
                again = dict(self._answers([asked[index] for index in group]))
                answers |= {index: again[i] for i, index in enumerate(group)}
            self._clear()
        return [answers[index] for index in range(len(asked))]

    def _groups(
        self, asked: Sequence[tuple[Prompt, Any, Any]], indices: Sequence[int]
    ) -> Iterator[list[int]]:
        """Split `indices` into groups that fit into the KV cache without reusing any block."""
        block = internals.block_size(self._llm)
        prompts = {index: asked[index][0] for index in indices}
        return groups_within(
            self._kv_tokens,
            {index: len(p.tokens) + p.max_tokens + block for index, p in prompts.items()},
        )

    def _clear(self) -> None:
        """Clear the KV cache and the index of the prefixes in it."""
        self._llm.collective_rpc("study_clear")
        self._drop_prefixes()

    def _drop_prefixes(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM could not reset its prefix cache")

    def _answers(self, asked: Sequence[tuple[Prompt, Any, Any]]) -> Iterator[tuple[int, Answer]]:
        """Yield the index and the answer of each prompt as it is finished.

        Prompts are added in portions of about one step's tokens, so that answers are read while the
        device computes. Prompts with the largest max_tokens come first, so that the last steps are
        not spent on a few long answers.
        """
        engine = self._llm.llm_engine
        waiting = deque(sorted(enumerate(asked), key=lambda item: -item[1][0].max_tokens))
        while waiting or engine.has_unfinished_requests():
            tokens = 0
            while waiting and tokens < self._batch_tokens:
                index, (prompt, vllm_prompt, parameters) = waiting.popleft()
                engine.add_request(str(index), vllm_prompt, parameters)
                tokens += len(prompt.tokens) - prompt.shared
            for output in engine.step():
                index = int(output.request_id)
                yield index, self._answer(asked[index][0], output.outputs[0])

    def _sampling(self, prompt: Prompt) -> Any:
        """Return vLLM's sampling parameters of a prompt. Raises EngineError."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        options = tuple(dict.fromkeys(prompt.options))
        if len(options) > _MAX_LOGPROBS:
            raise EngineError(
                f"a question has {len(options)} options; vLLM returns at most "
                f"{_MAX_LOGPROBS} log-probabilities"
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
                skip_clone=True,  # avoids a deep copy for every prompt; nothing modifies them
            )
        return self._parameters[kind]

    def _answer(self, prompt: Prompt, output: Any) -> Answer:
        by_token = internals.first_logprobs(output)
        logprobs = tuple(by_token[token] for token in prompt.options)
        finite = all(map(math.isfinite, internals.all_logprobs(output)))
        ends = self._ends.dropped, self._ends.kept
        return Answer.of(prompt, output.token_ids, logprobs, finite, *ends)
