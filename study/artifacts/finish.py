"""What a run ends with: the table, the verdict, the final merge as a folder, and the report."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from objectives.errors import ExportError
from objectives.merge.export import holds, sweep
from storage.dashboard import post
from storage.scores import Answers
from storage.studies import store_verdict, stored_fingerprint, stored_verdict
from storage.trials import Trials
from study.monitors.dashboard_figures import figures
from study.monitors.dashboard_note import note
from study.reporting.data import findings
from study.reporting.page import write_report
from study.search.genome import recipe_of
from study.search.jobs import AFTER
from study.setup.setup import Setup
from study.verdict.judge import Judgement, judge
from study.verdict.scoreboard import Line, lines, table

from .export import export_trial
from .model_card import VERDICT_FILE, texts


def show(setup: Setup, trials: Trials) -> None:
    """Print the table of what is stored."""
    if shown := lines(trials.all(), setup.genome, Answers(trials.database)):
        _print(shown, setup)


def conclude(setup: Setup, trials: Trials) -> None:
    """Print the table and the verdict, write the final merge and the report, keep the verdict.

    Done again, all is found as it was left. Raises ExportError.
    """
    answers = Answers(trials.database)
    judgement = judge(setup, trials.all(), answers)
    _print(judgement.lines, setup)
    for task, score in judgement.ensemble.items():
        print(
            f"the parents' ensemble on held-out questions of {task}: "
            f"{score.value:.3f} ± {score.error:.3f}"
        )
    print(judgement.sentence)
    folder = Path("runs", setup.config.name)
    with _alone_in(folder):  # runs that share a study end together
        if judgement.final is not None:
            print(f"merge: {_exported(setup, trials, judgement, answers, folder)}")
        found = findings(setup, trials, answers, judgement)
        print(f"report: {write_report(found, folder / 'report')}")
    _keep(setup, trials, judgement)


def _print(shown: Sequence[Line], setup: Setup) -> None:
    tasks = [task.name for task in setup.config.tasks]
    Console(width=None if sys.stdout.isatty() else 140).print(table(shown, tasks))


def _exported(
    setup: Setup, trials: Trials, judgement: Judgement, answers: Answers, folder: Path
) -> Path:
    assert judgement.final is not None
    record, url = judgement.final.candidate.record, trials.database.url
    out = folder / f"merge-{record.number}"
    verdict = {VERDICT_FILE: texts(setup, record, judgement, url)[VERDICT_FILE]}
    if not holds(out, recipe_of(record, setup.genome), setup.sources, verdict):
        sweep(folder)
        export_trial(setup, record, trials.all(), out, judgement, answers, url, overwrite=True)
    return out


def _keep(setup: Setup, trials: Trials, judgement: Judgement) -> None:
    """Put the verdict where the status and the dashboard find it."""
    database, study, final = trials.database, trials.study, judgement.final
    after = max(
        (line.candidate.record.attributes.get(AFTER, 0) for line in judgement.lines), default=0
    )
    number = final.candidate.record.number if final else None
    news = database.patience(lambda: store_verdict(study, judgement.sentence, number, after))
    if not news:
        return
    records, population = trials.all(), int(stored_fingerprint(study)["population"])
    text = note(setup, records, population, database.url, stored_verdict(study))
    database.patience(lambda: post(database, study, text, figures(records)))


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time; the folder is made where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
