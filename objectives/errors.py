"""Errors of models, tasks and engines. Nothing here imports torch, so that commands can."""


class ObjectiveError(Exception):
    """Base of every error of this package."""


class InputError(ObjectiveError):
    """Base of what the user can correct before a study runs: models, question files, folders."""


class SourceError(InputError):
    """A source checkpoint cannot be merged: names the model, the tensor or file, and the reason.

    Characters that do not print are escaped, because the names in a model's files come from
    strangers.
    """

    def __init__(self, text: str) -> None:
        super().__init__("".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text))


class TaskError(InputError):
    """A task cannot be used: names the task and says how to correct it."""


class QuestionError(InputError):
    """A question file cannot be used: names the file, the line and the remedy."""


class ExportError(InputError):
    """A model folder cannot be written: gives the reason."""


class MergeError(ObjectiveError):
    """A merge has no result: names the tensor and gives the reason."""


class EvaluationError(ObjectiveError):
    """Base of what fails while a merge is evaluated. A study retries such a trial."""


class ScorerError(EvaluationError):
    """A task's own code failed to score an answer: names the document and gives the reason.

    The code may depend on a service that is unavailable, so the trial fails as it does when the
    engine fails.
    """


class EngineError(EvaluationError):
    """The engine could not load a merge, or could not answer with it."""


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
