"""The search questions that no step of an ascent uses.

They determine when an ascent ends and which of its points becomes a final merge. They are disjoint
from the held-out questions.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from objectives.sampling import Sample
from objectives.tasks.examples import validation_split
from objectives.tasks.task import Task, WholeTask


def validation_samples(tasks: Sequence[Task | WholeTask], share: float) -> Mapping[str, Sample]:
    """Return the validation questions of each task, as a sample with equal inclusion probabilities.

    The score of the sample is the mean over its questions. A WholeTask has no sample; all its
    questions are asked.
    """
    samples = {}
    for task in tasks:
        if isinstance(task, WholeTask):
            continue
        _, outside = validation_split(task.questions, share)
        identities = set(map(id, outside))
        asked_S = np.array(
            [q for q, x in enumerate(task.questions) if id(x) in identities], np.intp
        )
        if len(asked_S):
            count = len(task.questions)
            probabilities_S = np.full(len(asked_S), len(asked_S) / count)
            zeros_Q = np.zeros(count)
            samples[task.name] = Sample(asked_S, probabilities_S, zeros_Q, zeros_Q)
    return samples
