"""Asks an exported folder what its trial was asked, and compares the answers with the stored ones.

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
from study.config.schema import StudyConfig
from study.setup.engine import EngineChoice, choose_engine, use_signature_threads
from study.setup.engine_facts import with_stored_facts
from study.setup.matching import check_fingerprint
from study.setup.setup import Setup, build
from study.setup.stored import StoredStudy, open_study

from .origin import Origin, database_url, hint, read_origin, study_file

_MODEL = "exported"
_SHOWN = 5


@dataclass(frozen=True)
class Checked:
    """One task's questions of one split."""

    split: str
    task: str
    asked: int
    equal: int
    note: str = ""
    """Why less than every bit was compared."""


def check(
    folder: Path,
    config: Path | None,
    storage: str | None,
    engine: str | None,
    task_folders: Sequence[Path] = (),
) -> list[Checked]:
    """Raises ExportError and ConfigError where the folder is not what a study has exported."""
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
) -> list[Checked]:
    records, answers = stored.records(), stored.answers
    record = _trial(setup, records, origin)
    if changed := changed_weights(folder):
        more = f" and {len(changed) - _SHOWN} more" if changed[_SHOWN:] else ""
        names = f"{', '.join(changed[:_SHOWN])}{more}"
        raise ExportError(f"{folder}: {names} is not what was exported")
    sources = Sources({_MODEL: folder.resolve()}, _MODEL)
    engine = choice.start(sources, setup.longest)
    try:
        engine.load(MergeRecipe.single(_MODEL, sources.num_layers))
        drawn = setup.rules.samples(record, records, answers)
        return [
            part
            for split, exam, samples in (
                (SEARCH, setup.search, drawn),
                (HELD_OUT, setup.held_out, {}),
            )
            for part in _compared(exam, engine, choice, answers, record, split, samples)
        ]
    finally:
        engine.close()


def _setup(folder: Path, origin: Origin, config: StudyConfig) -> Setup:
    setup = build(config, check_values=False)
    here = {SEARCH: setup.search.digests(), HELD_OUT: setup.held_out.digests()}
    for split in here:
        if origin.questions.get(split) != here[split]:
            raise ConfigError(f"{config.file}: its {split} questions are not those of {folder}")
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
                f"the study {config.name} in {redacted(url)} is another than the one that {folder} "
                f"is from{hint(folder, origin)}"
            )
        yield stored


def _trial(setup: Setup, records: Sequence[TrialRecord], origin: Origin) -> TrialRecord:
    number = origin.trial
    found = next((r for r in records if r.number == number), None)
    if found is None or not found.complete:
        raise ConfigError(f"the stored study {setup.config.name} has no finished trial {number}")
    return found


def _compared(
    exam: QuestionSet,
    engine: Engine,
    choice: EngineChoice,
    answers: ScoreStore,
    record: TrialRecord,
    split: str,
    samples: Mapping[str, Sample],
) -> list[Checked]:
    """Each task of a split; nothing where its answers are not stored."""
    stored, said = answers.read(record.id, split), answers.read_answers(record.id, split)
    if not stored:
        return []
    for reply in said.values():
        use_signature_threads(reply.engine)  # all tasks of a split were asked by one engine
    now = exam.evaluate(engine, samples).tasks  # others beside them would change the last bits
    return [
        _task(split, name, now[name], task, said.get(name), choice.signature)
        for name, task in stored.items()
    ]


def _task(
    split: str,
    name: str,
    now: TaskScores,
    before: StoredScores,
    said: StoredAnswers | None,
    engine: str,
) -> Checked:
    """Bit for bit where the same engine answered; else how right each answer was."""
    same_Q: NDArray[np.bool_] = now.scores_Q == before.scores_Q
    note = ""
    if said is None:
        note = "what was said is not stored: only how right each answer was is compared"
    elif said.engine != engine:
        note = (
            f"scored by {said.engine}, asked now with {engine}: only how right each answer was is "
            "compared"
        )
    else:
        tokens_Q = [tuple(answer.tokens for answer in answers) for answers in now.answers_Q]
        pairs = zip(tokens_Q, said.tokens_Q, strict=True)
        same_Q = same_Q & (now.soft_Q == before.soft_Q) & [a == b for a, b in pairs]
    same = same_Q if now.sample is None else same_Q[now.sample.asked_S]
    return Checked(split, name, len(same), int(same.sum()), note)
