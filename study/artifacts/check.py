"""Asks an exported folder what its trial was asked, and compares the answers with the stored ones.

Q: questions of one task.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.engines.engine import Engine
from objectives.errors import ExportError
from objectives.merge.export import changed_weights
from objectives.merge.recipe import MergeRecipe
from objectives.models.sources import Sources
from objectives.sampling import Sample
from objectives.scoring import Exam, TaskScores
from storage.answers import TaskReplies
from storage.database.database import Database, open_storage
from storage.scores import HELD_OUT, SEARCH, Answers, TaskAnswers
from storage.studies import find_study
from storage.trials import TrialRecord, Trials
from study.config.errors import ConfigError
from study.config.load import load_config, study_url
from study.config.schema import StudyConfig
from study.setup.engine import EngineChoice, choose_engine, use_threads_of
from study.setup.fingerprint import check_fingerprint
from study.setup.setup import Setup, build

from .model_card import STUDY_FILE

_MODEL = "exported"


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
    origin = _origin(folder)
    loaded = _config(folder, origin, config, task_folders)
    choice = choose_engine(loaded, engine)
    choice.begin()
    setup = _opened(folder, origin, loaded)
    database = open_storage(study_url(loaded, storage or origin["storage"]), create=False)
    records = _trials(setup, database)
    record = _trial(setup, records, origin)
    if changed := changed_weights(folder):
        raise ExportError(f"{folder}: {', '.join(changed)} is not what was exported")
    sources = Sources({_MODEL: folder.resolve()}, _MODEL)
    running = choice.start(sources, setup.longest)
    try:
        running.load(MergeRecipe.single(_MODEL, sources.num_layers))
        answers = Answers(database)
        drawn = setup.samples(record, records, answers)
        return [
            part
            for split, exam, samples in (
                (SEARCH, setup.search, drawn),
                (HELD_OUT, setup.held_out, {}),
            )
            for part in _compared(exam, running, choice, answers, record, split, samples)
        ]
    finally:
        running.close()


def _origin(folder: Path) -> dict[str, Any]:
    try:
        origin = json.loads((folder / STUDY_FILE).read_text(encoding="utf-8"))
        return {name: origin[name] for name in ("study", "trial", "config", "storage", "questions")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{folder} does not say which study it is from ({STUDY_FILE}: {error}); "
            "export it again with python -m study.export"
        ) from None


def _config(
    folder: Path, origin: Mapping[str, Any], config: Path | None, task_folders: Sequence[Path]
) -> StudyConfig:
    path = Path(origin["config"]) if config is None else config
    if config is None and not path.exists():
        raise ConfigError(f"{path}, from which {folder} came, is not here; give --config")
    loaded = load_config(path, task_folders)
    if loaded.name != origin["study"]:
        raise ConfigError(f"{folder} is from study {origin['study']}, {path} is {loaded.name}")
    return loaded


def _opened(folder: Path, origin: Mapping[str, Any], config: StudyConfig) -> Setup:
    setup = build(config, check_values=False)
    here = {SEARCH: setup.search.digests(), HELD_OUT: setup.held_out.digests()}
    for split, questions in origin["questions"].items():
        if questions != here[split]:
            raise ConfigError(f"{config.file}: its {split} questions are not those of {folder}")
    return setup


def _trials(setup: Setup, database: Database) -> list[TrialRecord]:
    study = find_study(database, setup.config.name)
    check_fingerprint(setup, study)
    return Trials(database, study).all()


def _trial(setup: Setup, records: Sequence[TrialRecord], origin: Mapping[str, Any]) -> TrialRecord:
    number = origin["trial"]
    found = next((r for r in records if r.number == number), None)
    if found is None or not found.complete:
        raise ConfigError(f"the stored study {setup.config.name} has no finished trial {number}")
    return found


def _compared(
    exam: Exam,
    engine: Engine,
    choice: EngineChoice,
    answers: Answers,
    record: TrialRecord,
    split: str,
    samples: Mapping[str, Sample],
) -> list[Checked]:
    """Each task of a split; nothing where its answers are not stored."""
    stored, said = answers.read(record.id, split), answers.replies(record.id, split)
    if not stored:
        return []
    for reply in said.values():
        use_threads_of(reply.engine)  # all tasks of a split were asked by one engine
    now = exam.ask(engine, samples).tasks  # others beside them would change the last bits
    return [
        _task(split, name, now[name], task, said.get(name), choice.signature)
        for name, task in stored.items()
    ]


def _task(
    split: str,
    name: str,
    now: TaskScores,
    before: TaskAnswers,
    said: TaskReplies | None,
    engine: str,
) -> Checked:
    """Bit for bit where the same engine answered; else how right each answer was."""
    same_Q: NDArray[np.bool_] = now.right_Q == before.right_Q
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
