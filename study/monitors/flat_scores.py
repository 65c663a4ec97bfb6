"""Scores that tell no model from another: all 0, or all equal. A setting is likely to be wrong."""

import logging
from collections.abc import Mapping, Sequence

from storage.trials import TrialRecord

log = logging.getLogger(__name__)

_FEWEST = 3
"""Scores of a task before equal ones mean anything."""
_CAUSES = (
    "the prompt or the form of the labels does not fit the task, max_tokens is too small, "
    "an end token or a stop text ends answers at once, the scorer does not fit"
)


def flat_scores(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The one score of each task whose `scores`, those of all models and merges, are equal."""
    return {
        task: values[0]
        for task, values in scores.items()
        if len(values) >= _FEWEST and len(set(values)) == 1
    }


def explanation(flat: Mapping[str, float]) -> str:
    """What is flat and its likely causes, in one line."""
    tasks = "; ".join(f"{task}: {score:.6g}" for task, score in flat.items())
    if not any(flat.values()):
        return f"all models and merges score 0 ({tasks}); likely causes: {_CAUSES}"
    return (
        f"all models and merges have equal scores, so nothing can be searched for ({tasks}); "
        f"likely causes: {_CAUSES}, or the models are too alike"
    )


class FlatScores:
    """Warns once a run of each task whose scores are flat when all baselines are scored."""

    def __init__(self, baselines: int) -> None:
        """`baselines` is how many a study has."""
        self._baselines = baselines
        self._warned: set[str] = set()

    def told(self, records: Sequence[TrialRecord]) -> None:
        """Take note of what is finished now."""
        whole = [r for r in records if r.complete and not r.sampled]  # a sample's mean is estimated
        if sum(r.baseline is not None for r in whole) < self._baselines:
            return
        names = dict.fromkeys(name for record in whole for name in record.tasks)
        scores = {name: [r.tasks[name] for r in whole if name in r.tasks] for name in names}
        flat = flat_scores(scores)
        for name in sorted(flat.keys() - self._warned):
            log.warning("warning: so far %s", explanation({name: flat[name]}))
        self._warned |= flat.keys()
