"""Store the answers of each trial: tokens and, for some trials, log-probabilities of options.

The table has one compressed row for each trial, task and split. Q: questions, each of which has
one or more prompts.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, insert, inspect, select
from sqlalchemy.orm import Session

from storage.database.database import Database
from storage.database.decoding import decoding
from storage.database.tables import trial_answers

TokensQ = tuple[tuple[tuple[int, ...], ...], ...]
LogprobsQ = tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class StoredAnswers:
    """The answers of one trial to the questions of one task and split."""

    engine: str
    """The engine's signature. Answers with equal signatures can be compared bit for bit."""
    tokens_Q: TokensQ
    """The tokens generated for each prompt of each question."""
    logprobs_Q: LogprobsQ | None = None
    """For each prompt, the log-probability of each option as the first token of the answer.

    None if they were not stored.
    """


def replace_answers(
    session: Session, trial_id: int, split: str, tasks: Mapping[str, StoredAnswers]
) -> None:
    """Replace the stored answers of a trial and split, within the caller's transaction."""
    same = (trial_answers.c.trial_id == trial_id) & (trial_answers.c.split == split)
    session.execute(delete(trial_answers).where(same))
    rows = [
        {
            "trial_id": trial_id,
            "task": name,
            "split": split,
            "engine": task.engine,
            "tokens": _pack(task.tokens_Q, "<i4"),
            "logprobs": None if task.logprobs_Q is None else _pack(task.logprobs_Q, "<f4"),
        }
        for name, task in tasks.items()
    ]
    if rows:
        session.execute(insert(trial_answers), rows)


def read_answers(database: Database, trial_id: int, split: str) -> dict[str, StoredAnswers]:
    """Return a trial's answers in a split, by task. Raises StorageError if decoding fails.

    The result is empty if no answers are stored or if an older database has no such table.
    """
    query = select(trial_answers).where(
        trial_answers.c.trial_id == trial_id, trial_answers.c.split == split
    )

    def read() -> Sequence[Any]:
        with database.engine.connect() as connection:
            if not inspect(connection).has_table(trial_answers.name):
                return []
            return connection.execute(query).mappings().all()

    with decoding(f"the answers of trial {trial_id}"):
        return {
            row["task"]: StoredAnswers(
                row["engine"],
                _unpack(row["tokens"], "<i4"),
                None if row["logprobs"] is None else _unpack(row["logprobs"], "<f4"),
            )
            for row in database.retry(read)
        }


def _pack(nested_Q: Sequence[Sequence[Sequence[float]]], dtype: str) -> bytes:
    """Compress nested sequences.

    The layout: the number of questions, the number of prompts of each question, the number of
    values of each prompt (all int32), and then all values.
    """
    prompts = [prompt for question in nested_Q for prompt in question]
    counts = [len(nested_Q), *map(len, nested_Q), *map(len, prompts)]
    values = [value for prompt in prompts for value in prompt]
    return zlib.compress(
        np.array(counts, dtype="<i4").tobytes() + np.array(values, dtype=dtype).tobytes()
    )


def _unpack(data: bytes, dtype: str) -> tuple[tuple[tuple[Any, ...], ...], ...]:
    """Return the nested tuples that `_pack` has compressed."""
    raw = zlib.decompress(data)
    counts = _Reader(np.frombuffer(raw, dtype="<i4", count=len(raw) // 4))
    [questions] = counts.read(1)
    prompts_Q = counts.read(questions)
    lengths = counts.read(sum(prompts_Q))
    values = _Reader(np.frombuffer(raw, dtype=dtype, offset=4 * counts.position))
    flat: Iterator[tuple[Any, ...]] = (tuple(values.read(length)) for length in lengths)
    return tuple(tuple(next(flat) for _ in range(count)) for count in prompts_Q)


class _Reader:
    """Reads an array sequentially."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array, self.position = array, 0

    def read(self, count: int) -> list[Any]:
        """Return the next `count` values; fewer at the end of the array."""
        values: list[Any] = self._array[self.position : self.position + count].tolist()
        self.position += count
        return values
