"""What every merge said, in a table of ours: the tokens of its answers, and for the merges that are
compared in the end the log-probabilities of the options.

One row for each trial, task and split, compressed. Q: questions, each with its prompts.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, insert, inspect, select
from sqlalchemy.orm import Session

from storage.database.database import Database, readable
from storage.database.tables import replies as _replies

TokensQ = tuple[tuple[tuple[int, ...], ...], ...]
LogprobsQ = tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class TaskReplies:
    """What one trial said in one task."""

    engine: str
    """What answered: two trials with the same text can be compared bit for bit."""
    tokens_Q: TokensQ
    logprobs_Q: LogprobsQ | None = None
    """Of each prompt's options as the first token; None where they were not kept."""


def insert_replies(
    session: Session, trial_id: int, split: str, tasks: Mapping[str, TaskReplies]
) -> None:
    """Put a trial's replies in the place of those it has, within a transaction."""
    same = (_replies.c.trial_id == trial_id) & (_replies.c.split == split)
    session.execute(delete(_replies).where(same))
    rows = [
        {
            "trial_id": trial_id,
            "task": name,
            "split": split,
            "engine": task.engine,
            "tokens": _packed(task.tokens_Q, "<i4"),
            "logprobs": None if task.logprobs_Q is None else _packed(task.logprobs_Q, "<f4"),
        }
        for name, task in tasks.items()
    ]
    if rows:
        session.execute(insert(_replies), rows)


def read_replies(database: Database, trial_id: int, split: str) -> dict[str, TaskReplies]:
    """A trial's replies by task; empty where it has none, as in databases from before the table."""
    query = select(_replies).where(_replies.c.trial_id == trial_id, _replies.c.split == split)

    def work() -> Sequence[Any]:
        with database.engine.connect() as connection:
            if not inspect(connection).has_table(_replies.name):
                return []
            return connection.execute(query).mappings().all()

    with readable(f"the replies of trial {trial_id}"):
        return {
            row["task"]: TaskReplies(
                row["engine"],
                _unpacked(row["tokens"], "<i4"),
                None if row["logprobs"] is None else _unpacked(row["logprobs"], "<f4"),
            )
            for row in database.patience(work)
        }


def _packed(nested_Q: Sequence[Sequence[Sequence[float]]], kind: str) -> bytes:
    """Prompts a question, values a prompt, and all values, one after the other."""
    prompts = [prompt for question in nested_Q for prompt in question]
    counts = [len(nested_Q), *map(len, nested_Q), *map(len, prompts)]
    values = [value for prompt in prompts for value in prompt]
    return zlib.compress(
        np.array(counts, dtype="<i4").tobytes() + np.array(values, dtype=kind).tobytes()
    )


def _unpacked(data: bytes, kind: str) -> tuple[tuple[tuple[Any, ...], ...], ...]:
    raw = zlib.decompress(data)
    counts = _Reader(np.frombuffer(raw, dtype="<i4", count=len(raw) // 4))
    [questions] = counts.next(1)
    prompts_Q = counts.next(questions)
    lengths = counts.next(sum(prompts_Q))
    values = _Reader(np.frombuffer(raw, dtype=kind, offset=4 * counts.read))
    flat: Iterator[tuple[Any, ...]] = (tuple(values.next(length)) for length in lengths)
    return tuple(tuple(next(flat) for _ in range(count)) for count in prompts_Q)


class _Reader:
    """Takes an array apart from its beginning."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array, self.read = array, 0

    def next(self, count: int) -> list[Any]:
        taken: list[Any] = self._array[self.read : self.read + count].tolist()
        self.read += count
        return taken
