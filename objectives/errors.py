"""Errors of models, tasks and engines. This module imports quickly, without torch."""


class ObjectiveError(Exception):
    """The base class of all errors of this package."""


class InputError(ObjectiveError):
    """The base class of errors that the user can correct: models, question files, folders."""


class SourceError(InputError):
    """A source cannot be merged; the message names the model, the tensor or file, and the reason.

    Control characters are escaped, because names in a model's files are not trusted.
    """

    def __init__(self, text: str) -> None:
        super().__init__("".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text))


class PositionsDiffer(SourceError):
    """Models can be merged only if the user says whose rope and sliding window a merge has."""


class TaskError(InputError):
    """A task cannot be used; the message names the task and the remedy."""


class NotLearnable(TaskError):
    """A search by gradient cannot learn from a task; the message names the task and the reason."""


class QuestionError(InputError):
    """A question file cannot be used; the message names the file, the line and the remedy."""


class ExportError(InputError):
    """A model folder cannot be written or read; the message contains the reason."""


class MergeError(ObjectiveError):
    """A merge cannot be computed; the message names the tensor and the reason."""


class EvaluationError(ObjectiveError):
    """The base class of failures while a merge is evaluated. A study retries such a trial."""


class ScorerError(EvaluationError):
    """A task's own code could not score an answer; the message names the document and the reason.

    The code may depend on a service that is temporarily unavailable, so the trial may be retried.
    """


class EngineError(EvaluationError):
    """The engine could not load a merge or could not answer."""


class EngineMemoryError(EngineError):
    """The device is out of memory."""


class EngineTimeoutError(EngineError):
    """The engine did not answer in time."""


class EngineDeadError(EngineError):
    """The engine's process has ended."""


class WeightError(EngineError):
    """The merged tensors do not fit the model in the engine."""


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
