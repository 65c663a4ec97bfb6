"""The end of a run: the final merge, the report, the verdict and the table."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from objectives.errors import ExportError
from objectives.export.export import is_export_of
from objectives.export.target import remove_leftovers
from storage.identity import study_identity
from storage.scores import ScoreStore
from storage.studies import store_verdict, stored_fingerprint
from storage.trials import Trials
from study.cli.escaping import say
from study.cli.text import score_text
from study.monitors.cut_off_answers import cut_off_shares
from study.monitors.cut_off_answers import explanation as cut_off_explanation
from study.monitors.dashboard_note import DashboardNote
from study.monitors.flat_scores import explanation, flat_scores
from study.monitors.monitor import Monitors
from study.reporting.data import ReportData, report_data
from study.reporting.page import notes, write_report
from study.search.genome import recipe_of
from study.search.state import AFTER
from study.setup.setup import Setup
from study.verdict.judge import Judgement, judge
from study.verdict.scoreboard import ScoredContender, scored_contenders, search_scores, table

from .export import export_trial
from .folders import alternative, merge_folder, report_folder
from .model_card import VERDICT_FILE, texts
from .origin import verify_lines

_WIDEST = 10_000
"""Columns of the table if it is not printed on a terminal."""


def show(setup: Setup, trials: Trials) -> None:
    """Print the table of the stored scores."""
    if scored := scored_contenders(trials.all(), setup.genome, ScoreStore(trials.database)):
        _print(scored, setup)


def finish_run(setup: Setup, trials: Trials) -> None:
    """Write the final merge and the report, store the verdict, then print all results.

    Results are printed last, and also if a folder could not be written. The function is idempotent.

    Raises ExportError.
    """
    answers = ScoreStore(trials.database)
    judgement = judge(setup, trials.all(), answers)
    data = report_data(setup, trials, answers, judgement)
    paths, errors = _write(setup, trials, data, answers)
    _store_verdict(setup, trials, judgement)
    _print(judgement.contenders, setup)
    if shares := cut_off_shares(trials.all()):
        say(f"warning: {cut_off_explanation(shares)}")
    for task, score in judgement.ensemble.items():
        say(
            "for comparison, the ensemble of the parents (the mean of their probabilities) on the "
            f"held-out questions of {task}: {score_text(score.score, score.error)}"
        )
    say(judgement.sentence)
    for sentence in notes(data):
        say(f"note: {sentence}")
    for name, path in paths.items():
        say(f"{name}: {path}")
    if merge := paths.get("merge"):
        for line in verify_lines(merge, setup.config, trials.database.url):
            say(line)
    if errors:
        raise ExportError("\n".join(map(str, errors)))


def _print(scored: Sequence[ScoredContender], setup: Setup) -> None:
    """Print the table; its width is limited on a terminal only."""
    tasks = [task.name for task in setup.config.tasks]
    console = Console(width=None if sys.stdout.isatty() else _WIDEST)
    with console.capture() as captured:
        console.print(table(scored, tasks, console.encoding))
    print(captured.get(), end="")
    if flat := flat_scores(search_scores(scored)):
        say(f"warning: {explanation(flat)}")


def _write(
    setup: Setup, trials: Trials, data: ReportData, answers: ScoreStore
) -> tuple[dict[str, Path], list[ExportError]]:
    """Write the merge and the report; return their paths by name, and the errors."""
    folder, paths, errors = Path("runs", setup.config.name), {}, []
    judgement = data.verdict
    writers: dict[str, Callable[[], Path]] = {
        "merge": lambda: _export(setup, trials, judgement, answers, folder),
        "report": lambda: write_report(data, report_folder(folder, data.to_dict())),
    }
    if judgement.final is None:
        del writers["merge"]
    try:
        with _locked(folder):  # several runs of a study may end at the same time
            for name, write in writers.items():
                try:
                    paths[name] = write()
                except ExportError as error:
                    errors.append(error)
    except ExportError as error:
        errors.append(error)
    return paths, errors


def _export(
    setup: Setup, trials: Trials, judgement: Judgement, answers: ScoreStore, folder: Path
) -> Path:
    assert judgement.final is not None
    record, url = judgement.final.contender.record, trials.database.url
    identity = study_identity(trials.database, trials.study)
    recipe = recipe_of(record, setup.genome)
    verdict = {VERDICT_FILE: texts(setup, record, judgement, url)[VERDICT_FILE]}
    default = folder / f"merge-{record.number}"
    for out in (default, alternative(default, identity)):
        if is_export_of(out, recipe, setup.sources, verdict):
            return out
    remove_leftovers(folder)
    out = merge_folder(default, identity, url, setup.config.name)
    export_trial(setup, record, trials.all(), out, judgement, answers, url, True, identity)
    return out


def _store_verdict(setup: Setup, trials: Trials, judgement: Judgement) -> None:
    """Store the verdict for the status and the dashboard."""
    database, study, final = trials.database, trials.study, judgement.final
    after = max(
        (line.contender.record.attributes.get(AFTER, 0) for line in judgement.contenders), default=0
    )
    number = final.contender.record.number if final else None
    is_new = database.retry(lambda: store_verdict(study, judgement.sentence, number, after))
    if is_new:
        population = int(stored_fingerprint(study)["population"])
        note = DashboardNote(setup, database, study, population)
        Monitors(note).on_generation(trials.all())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Create the folder if necessary, and lock it against other processes."""
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
