"""Selects a trial, and writes its merge as a model folder."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.scores import ScoreStore
    from storage.trials import TrialRecord
    from study.setup.setup import Setup
    from study.verdict.judge import Judgement


def choose(records: "Sequence[TrialRecord]", trial: str, judgement: "Judgement") -> "TrialRecord":
    """Return the trial that --trial names. Raises ConfigError."""
    from study.config.errors import ConfigError
    from study.search.state import best_merge

    if trial == "final":
        if judgement.final is None:
            raise ConfigError(f"--trial final: {judgement.sentence}\n--trial best needs no verdict")
        return judgement.final.contender.record
    if trial == "best":
        best = best_merge(records)
        if best is None:
            raise ConfigError("--trial best: no merge has been scored yet")
        return best
    record = next((r for r in records if str(r.number) == trial), None)
    if record is None:
        raise ConfigError(
            f"--trial {trial}: must be final, best or a number from 0 to {len(records) - 1}"
        )
    if not record.complete:
        state = {"FAIL": "has failed"}.get(record.state.name, f"is {record.state.name.lower()}")
        state = "was interrupted" if record.interrupted else state
        raise ConfigError(f"--trial {trial}: that trial {state}, so there is nothing to export")
    return record


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
