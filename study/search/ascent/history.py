"""The losses of a search by gradient over time: the data of every chart of an ascent."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from storage.trials import GENERATION, RESULT, SLOT, TrialRecord
from study.search.history import search_trials
from study.search.state import LOSS, is_step

from .jobs import CHECKPOINT_INTERVAL, checkpoints, validation_loss

_GRADIENT_COST = 3
"""The cost of the gradient of a question's loss, in forward passes: one forward pass, and one
backward pass that takes as long as two."""


@dataclass(frozen=True)
class Checkpoint:
    """A point of an ascent, evaluated on the validation questions."""

    steps: int
    """The number of steps that led to it."""
    batch_loss: float
    """The mean loss of the batches of the last few steps before it."""
    validation_loss: float
    validation_score: float

    @property
    def gap(self) -> float:
        """The generalization gap: the validation loss minus that of the batches."""
        return self.validation_loss - self.batch_loss


@dataclass(frozen=True)
class AscentCurve:
    """The losses of one ascent."""

    losses: Sequence[float]
    """The loss of each step's batch, at the point that the step starts from."""
    checkpoints: Sequence[Checkpoint]


@dataclass(frozen=True)
class AscentHistory:
    """The losses of all ascents of a study."""

    ascents: Mapping[int, AscentCurve]
    questions: int
    """The number of questions of steps and checkpoints; a gradient counts as three questions."""

    @classmethod
    def of(cls, records: Sequence[TrialRecord]) -> Self | None:
        """Return the history of a study with these trials; None if it has no step of an ascent."""
        steps = [r for r in search_trials(records) if is_step(r)]
        if not steps:
            return None
        by_place = checkpoints(records)
        curves = {}
        for ascent in sorted({r.attributes[SLOT] for r in steps}):
            own = [r for r in steps if r.attributes[SLOT] == ascent]
            losses = [
                float(r.attributes[RESULT][LOSS])
                for r in sorted(own, key=lambda r: int(r.attributes[GENERATION]))
            ]
            points = [
                _checkpoint(steps_taken, by_place[steps_taken, own_ascent], losses)
                for steps_taken, own_ascent in sorted(by_place)
                if own_ascent == ascent and steps_taken <= len(losses)
            ]
            curves[ascent] = AscentCurve(losses, points)
        asked = _GRADIENT_COST * sum(r.attributes[RESULT]["asked"] for r in steps)
        return cls(curves, asked + sum(r.attributes[RESULT]["asked"] for r in by_place.values()))

    @property
    def best(self) -> tuple[int, Checkpoint] | None:
        """The ascent and the checkpoint with the lowest validation loss;
        None before the first checkpoint."""
        pairs = [(a, point) for a, curve in self.ascents.items() for point in curve.checkpoints]
        return min(pairs, key=lambda p: (p[1].validation_loss, p[1].steps, p[0]), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the history in the format of report.json."""
        return {
            "questions": self.questions,
            "ascents": {
                str(ascent): {
                    "losses": list(curve.losses),
                    "checkpoints": [vars(point) for point in curve.checkpoints],
                }
                for ascent, curve in self.ascents.items()
            },
        }


def _checkpoint(steps: int, record: TrialRecord, losses: Sequence[float]) -> Checkpoint:
    return Checkpoint(
        steps,
        statistics.fmean(losses[max(0, steps - CHECKPOINT_INTERVAL) : steps]),
        validation_loss(record),
        float(record.value or 0.0),
    )
