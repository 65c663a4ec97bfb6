"""Compares the answers of an exported folder with the stored answers of its trial.

Q: questions of one task.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from objectives.engines.engine import Engine
from objectives.errors import ExportError
from objectives.export.export import changed_weights
from objectives.merge.recipe import MergeRecipe
from objectives.models.sources import Sources
from objectives.sampling import Sample
from objectives.scoring import QuestionSet, TaskScores
from storage.answers import StoredAnswers
from storage.database.url import redacted
from storage.errors import StorageError
from storage.scores import HELD_OUT, SEARCH, ScoreStore, StoredScores
from storage.trials import TrialRecord
from study.config.errors import ConfigError
from study.config.study import StudyConfig
from study.setup.engine import EngineChoice, choose_engine, use_signature_threads
from study.setup.engine_facts import with_stored_facts
from study.setup.matching import check_fingerprint
from study.setup.setup import Setup, build
from study.setup.stored import StoredStudy, open_study

from .origin import Origin, database_url, hint, read_origin, study_file

_MODEL = "exported"
_MAX_LISTED = 5


@dataclass(frozen=True)
class TaskCheck:
    """The result for the questions of one task in one split."""

    split: str
    task: str
    asked: int
    """The number of questions that the trial was asked, which are compared."""
    equal: int
    of: int
    """The number of questions of the task in the split."""
    note: str = ""
    """The reason why only the scores of the answers were compared, if so."""


def check(
    folder: Path,
    config: Path | None,
    storage: str | None,
    engine: str | None,
    task_folders: Sequence[Path] = (),
) -> list[TaskCheck]:
    """Ask an exported folder the questions of its trial again, and compare the answers.

    Raises ExportError if the folder is damaged or was changed, ConfigError if it does not belong to
    the study, and the errors of opening the study and of the engine.
    """
    origin = read_origin(folder)
    loaded = study_file(folder, origin, config, task_folders)
    url = database_url(folder, origin, loaded, storage, trusted=config is not None)
    choice = choose_engine(loaded, engine)
    choice.prestart()
    setup = _setup(folder, origin, loaded)
    with _stored(folder, origin, loaded, url) as stored:
        check_fingerprint(setup, stored.study)
        return _check(folder, origin, setup, stored, with_stored_facts(choice, stored.study))


def _check(
    folder: Path, origin: Origin, setup: Setup, stored: StoredStudy, choice: EngineChoice
) -> list[TaskCheck]:
    records, answers = stored.records(), stored.answers
    record = _trial(setup, records, origin)
    if changed := changed_weights(folder):
        more = f" and {len(changed) - _MAX_LISTED} more" if changed[_MAX_LISTED:] else ""
        names = f"{', '.join(changed[:_MAX_LISTED])}{more}"
        raise ExportError(f"{folder}: files have changed since the export: {names}")
    sources = Sources({_MODEL: folder.resolve()}, _MODEL)
    engine = choice.start(sources, setup.longest)
    try:
        engine.load(MergeRecipe.single(_MODEL, sources.num_layers))
        samples = setup.rules.samples(record, records, answers)
        return [
            result
            for split, questions, of_split in (
                (SEARCH, setup.search, samples),
                (HELD_OUT, setup.held_out, {}),
            )
            for result in _compare(questions, engine, choice, answers, record, split, of_split)
        ]
    finally:
        engine.close()


def _setup(folder: Path, origin: Origin, config: StudyConfig) -> Setup:
    setup = build(config, check_values=False)
    digests = {SEARCH: setup.search.digests(), HELD_OUT: setup.held_out.digests()}
    for split in digests:
        if origin.questions.get(split) != digests[split]:
            raise ConfigError(f"{config.file}: its {split} questions differ from those of {folder}")
    return setup


@contextlib.contextmanager
def _stored(folder: Path, origin: Origin, config: StudyConfig, url: str) -> Iterator[StoredStudy]:
    """Open the study that the folder is from. Raises StorageError."""
    with contextlib.ExitStack() as stack:
        try:
            stored = stack.enter_context(open_study(config, url))
        except StorageError as error:
            raise StorageError(f"{error}{hint(folder, origin)}") from None
        if origin.identity not in (None, stored.identity):
            raise StorageError(
                f"the study {config.name} in {redacted(url)} is not the study that "
                f"{folder} was exported from{hint(folder, origin)}"
            )
        yield stored


def _trial(setup: Setup, records: Sequence[TrialRecord], origin: Origin) -> TrialRecord:
    number = origin.trial
    record = next((r for r in records if r.number == number), None)
    if record is None or not record.complete:
        raise ConfigError(f"the stored study {setup.config.name} has no finished trial {number}")
    return record


def _compare(
    questions: QuestionSet,
    engine: Engine,
    choice: EngineChoice,
    answers: ScoreStore,
    record: TrialRecord,
    split: str,
    samples: Mapping[str, Sample],
) -> list[TaskCheck]:
    """Compare each task of a split; return an empty list if the split's scores are not stored."""
    stored, replies = answers.read(record.id, split), answers.read_answers(record.id, split)
    if not stored:
        return []
    for reply in replies.values():
        use_signature_threads(reply.engine)  # one engine answered all tasks of a split
    scores = questions.evaluate(engine, samples).tasks  # other batches would round differently
    return [
        _compare_task(split, name, scores[name], task, replies.get(name), choice.signature)
        for name, task in stored.items()
    ]


def _compare_task(
    split: str,
    name: str,
    new: TaskScores,
    stored: StoredScores,
    reply: StoredAnswers | None,
    engine: str,
) -> TaskCheck:
    """Compare the answers bit for bit if they are from the same engine, else only their scores."""
    same_Q: NDArray[np.bool_] = new.scores_Q == stored.scores_Q
    note = ""
    if reply is None:
        note = "the answers are not stored, so only their scores are compared"
    elif reply.engine != engine:
        note = (
            f"the stored answers are from {reply.engine}, the new ones from {engine}, so only "
            "their scores are compared"
        )
    else:
        tokens_Q = [tuple(answer.tokens for answer in answers) for answers in new.answers_Q]
        pairs = zip(tokens_Q, reply.tokens_Q, strict=True)
        same_Q = same_Q & (new.soft_Q == stored.soft_Q) & [a == b for a, b in pairs]
    same = same_Q if new.sample is None else same_Q[new.sample.asked_S]
    return TaskCheck(split, name, len(same), int(same.sum()), len(same_Q), note)
