"""A warning about scores that are all 0 or all equal, which suggests that a setting is wrong."""

import logging
from collections.abc import Mapping, Sequence

from storage.trials import TrialRecord

from .monitor import Monitor

log = logging.getLogger(__name__)

_MIN_SCORES = 3
"""The number of equal scores of a task that is needed for a warning."""
_CAUSES = (
    "the prompt or the form of the labels does not fit the task, max_tokens is too small, "
    "an end token or a stop text ends answers at once, the scorer does not fit"
)


def flat_scores(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the tasks on which all models and merges have equal `scores`, and that score."""
    return {
        task: values[0]
        for task, values in scores.items()
        if len(values) >= _MIN_SCORES and len(set(values)) == 1
    }


def explanation(flat: Mapping[str, float]) -> str:
    """Return in one line which tasks have equal scores, and the likely causes."""
    tasks = "; ".join(f"{task}: {score:.6g}" for task, score in flat.items())
    if not any(flat.values()):
        return f"all models and merges score 0 ({tasks}); likely causes: {_CAUSES}"
    return (
        f"all models and merges have equal scores, so the search cannot rank them ({tasks}); "
        f"likely causes: {_CAUSES}, or the models are too similar"
    )


class FlatScores(Monitor):
    """Warns once per run about each task whose scores are equal after all baselines are scored."""

    def __init__(self, baselines: int) -> None:
        """`baselines` is the number of baselines of the study."""
        self._baselines = baselines
        self._warned: set[str] = set()

    def on_trials(self, records: Sequence[TrialRecord]) -> None:
        whole = [
            r for r in records if r.complete and not r.sampled
        ]  # the mean of a sample is an estimate
        if sum(r.baseline is not None for r in whole) < self._baselines:
            return
        names = dict.fromkeys(name for record in whole for name in record.tasks)
        scores = {name: [r.tasks[name] for r in whole if name in r.tasks] for name in names}
        flat = flat_scores(scores)
        for name in sorted(flat.keys() - self._warned):
            log.warning("warning: so far %s", explanation({name: flat[name]}))
        self._warned |= flat.keys()
