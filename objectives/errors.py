"""What can be wrong with models and folders. Here, so that commands know it without torch."""


class TaskError(Exception):
    """A task cannot be asked: says which, and what would mend it."""


class QuestionError(Exception):
    """A question file cannot be used: names the file, the line and the remedy."""


class EngineError(Exception):
    """The engine could not load a merge or answer with it."""


class EngineMemoryError(EngineError):
    """The device's memory is exhausted."""


class EngineTimeoutError(EngineError):
    """The engine did not answer in time."""


class EngineDeadError(EngineError):
    """The engine's process is gone."""


class WeightError(EngineError):
    """Merged tensors and the model in the engine do not belong together."""


class SourceError(Exception):
    """A source checkpoint cannot be merged: says which model, which tensor, and why."""


class ExportError(Exception):
    """A folder cannot be written: says why."""


class MergeError(Exception):
    """A merge has no result: says which tensor, and why."""
