"""What a run ends with: the table, the verdict, the final merge as a folder, and the report."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from objectives.errors import ExportError
from objectives.export.export import holds
from objectives.export.target import remove_leftovers
from storage.dashboard import post
from storage.identity import study_identity
from storage.scores import ScoreStore
from storage.studies import store_verdict, stored_fingerprint, stored_verdict
from storage.trials import Trials
from study.cli.escaping import say
from study.monitors.dashboard_figures import figures
from study.monitors.dashboard_note import note
from study.monitors.flat_scores import explanation, flat_scores
from study.reporting.data import findings
from study.reporting.page import write_report
from study.search.genome import recipe_of
from study.search.jobs import AFTER
from study.setup.setup import Setup
from study.verdict.judge import Judgement, judge
from study.verdict.scoreboard import Line, lines, search_scores, table

from .export import export_trial
from .folders import merge_place, named, report_place
from .model_card import VERDICT_FILE, texts

_WIDEST = 10_000
"""Columns of a table that is written to a file."""


def show(setup: Setup, trials: Trials) -> None:
    """Print the table of what is stored."""
    if shown := lines(trials.all(), setup.genome, ScoreStore(trials.database)):
        _print(shown, setup)


def conclude(setup: Setup, trials: Trials) -> None:
    """Write the final merge and the report, keep the verdict, then print the table and all of it.

    Results are printed last, and also if a folder could not be written: an output that fails loses
    nothing. Repeated, it changes nothing. Raises ExportError.
    """
    answers = ScoreStore(trials.database)
    judgement = judge(setup, trials.all(), answers)
    places, errors = _written(setup, trials, judgement, answers)
    _keep(setup, trials, judgement)
    _print(judgement.lines, setup)
    for task, score in judgement.ensemble.items():
        say(
            f"the parents' ensemble on held-out questions of {task}: "
            f"{score.value:.3f} ± {score.error:.3f}"
        )
    say(judgement.sentence)
    for what, place in places.items():
        say(f"{what}: {place}")
    if errors:
        raise ExportError("\n".join(map(str, errors)))


def _print(shown: Sequence[Line], setup: Setup) -> None:
    """The table whole, however wide it is, unless it is for a terminal."""
    tasks = [task.name for task in setup.config.tasks]
    console = Console(width=None if sys.stdout.isatty() else _WIDEST)
    with console.capture() as captured:
        console.print(table(shown, tasks, console.encoding))
    print(captured.get(), end="")
    if flat := flat_scores(search_scores(shown)):
        say(f"warning: {explanation(flat)}")


def _written(
    setup: Setup, trials: Trials, judgement: Judgement, answers: ScoreStore
) -> tuple[dict[str, Path], list[ExportError]]:
    """The places of the merge and the report, and what kept one of them from being written."""
    folder, places, errors = Path("runs", setup.config.name), {}, []
    found = findings(setup, trials, answers, judgement)
    writers: dict[str, Callable[[], Path]] = {
        "merge": lambda: _exported(setup, trials, judgement, answers, folder),
        "report": lambda: write_report(found, report_place(folder, found)),
    }
    if judgement.final is None:
        del writers["merge"]
    try:
        with _alone_in(folder):  # runs that share a study end together
            for what, write in writers.items():
                try:
                    places[what] = write()
                except ExportError as error:
                    errors.append(error)
    except ExportError as error:
        errors.append(error)
    return places, errors


def _exported(
    setup: Setup, trials: Trials, judgement: Judgement, answers: ScoreStore, folder: Path
) -> Path:
    assert judgement.final is not None
    record, url = judgement.final.candidate.record, trials.database.url
    identity = study_identity(trials.database, trials.study)
    recipe = recipe_of(record, setup.genome)
    verdict = {VERDICT_FILE: texts(setup, record, judgement, url)[VERDICT_FILE]}
    usual = folder / f"merge-{record.number}"
    for out in (usual, named(usual, identity)):
        if holds(out, recipe, setup.sources, verdict):
            return out
    remove_leftovers(folder)
    out = merge_place(usual, identity, url, setup.config.name)
    export_trial(setup, record, trials.all(), out, judgement, answers, url, True, identity)
    return out


def _keep(setup: Setup, trials: Trials, judgement: Judgement) -> None:
    """Put the verdict where the status and the dashboard find it."""
    database, study, final = trials.database, trials.study, judgement.final
    after = max(
        (line.candidate.record.attributes.get(AFTER, 0) for line in judgement.lines), default=0
    )
    number = final.candidate.record.number if final else None
    news = database.retry(lambda: store_verdict(study, judgement.sentence, number, after))
    if not news:
        return
    records, population = trials.all(), int(stored_fingerprint(study)["population"])
    text = note(setup, records, population, database.url, stored_verdict(study))
    database.retry(lambda: post(database, study, text, figures(records)))


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
