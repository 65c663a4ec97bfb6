"""Selects a trial, and writes its merge as a model folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from study.config.errors import ConfigError
from study.search.state import AFTER, best_merge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.scores import ScoreStore
    from storage.trials import TrialRecord
    from study.setup.setup import Setup
    from study.verdict.judge import Judgement


def check_trial(records: "Sequence[TrialRecord]", trial: str, config: Path) -> None:
    """Check that the stored trials may have what --trial names, before any model is opened.

    `config` is the study file. Raises ConfigError.
    """
    if trial != "final":
        _named(records, trial)
    elif not _may_have_verdict(records):
        from study.verdict.wording import pending_text

        raise _no_verdict(pending_text(config, ["the final merges"]), records)


def choose(records: "Sequence[TrialRecord]", trial: str, judgement: "Judgement") -> "TrialRecord":
    """Return the trial that --trial names. Raises ConfigError."""
    if trial != "final":
        return _named(records, trial)
    if judgement.final is None:
        raise _no_verdict(judgement.sentence, records)
    return judgement.final.contender.record


def _named(records: "Sequence[TrialRecord]", trial: str) -> "TrialRecord":
    """Return the best trial, or that of a number. Raises ConfigError."""
    if trial == "best":
        best = best_merge(records)
        if best is None:
            raise ConfigError("--trial best: no merge has been scored yet")
        return best
    record = next((r for r in records if str(r.number) == trial), None)
    if record is None:
        numbers = f"a number from 0 to {len(records) - 1}" if records else "a number"
        none = "" if records else "; the study has no trials yet"
        raise ConfigError(f"--trial {trial}: must be final, best or {numbers}{none}")
    if not record.complete:
        state = {"FAIL": "has failed"}.get(record.state.name, f"is {record.state.name.lower()}")
        state = "was interrupted" if record.interrupted else state
        raise ConfigError(f"--trial {trial}: that trial {state}, so there is nothing to export")
    return record


def _may_have_verdict(records: "Sequence[TrialRecord]") -> bool:
    """Return whether a merge is scored and, if there was a search, a final merge of it."""
    searched = any(r.kind == "search" for r in records)
    merged = any(r.complete and AFTER in r.attributes for r in records)
    return best_merge(records) is not None and (merged or not searched)


def _no_verdict(sentence: str, records: "Sequence[TrialRecord]") -> ConfigError:
    hint = "" if best_merge(records) is None else "\n--trial best needs no verdict"
    return ConfigError(f"--trial final: {sentence}{hint}")


def export_trial(
    setup: "Setup",
    record: "TrialRecord",
    records: "Sequence[TrialRecord]",
    out: Path,
    judgement: "Judgement",
    answers: "ScoreStore",
    url: str,
    overwrite: bool = False,
    identity: str | None = None,
) -> Path:
    """Write the merge of `record`, one of the `records`, and return the folder.

    Raises ExportError.
    """
    from objectives.export.export import export as write
    from study.artifacts.model_card import model_card, texts
    from study.search.genome import recipe_of

    samples = setup.rules.samples(record, records, answers)
    return write(
        recipe_of(record, setup.genome),
        setup.sources,
        setup.locations,
        out,
        model_card(setup, record, judgement, answers, samples),
        overwrite,
        texts=texts(setup, record, judgement, url, identity),
    )
