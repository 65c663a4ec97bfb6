"""All that the report shows of a study, as plain data."""

from collections.abc import Mapping, Sequence
from typing import Any

from objectives.merge.recipe import MergeRecipe
from storage.identity import study_identity
from storage.scores import Answers
from storage.studies import stored_fingerprint, stored_start
from storage.trials import TrialRecord, Trials
from study.search.genome import Genome, recipe_of
from study.search.jobs import Jobs
from study.search.state import SearchState, best_merge
from study.setup.setup import Setup
from study.verdict.judge import Judgement
from study.verdict.scoreboard import ScoredContender

from . import answer_changes as flips
from . import history


def findings(
    setup: Setup, trials: Trials, answers: Answers, judgement: Judgement
) -> dict[str, Any]:
    """Reads and scores nothing; the same database gives the same findings."""
    records = trials.all()
    population = int(stored_fingerprint(trials.study)["population"])
    replay = setup.sampler(population, stored_start(trials.study)).replay
    state = SearchState.of(records, population)
    jobs = Jobs(setup.genome, replay, setup.config.study.trials, setup.sampled)
    shown = _shown(judgement, records)
    return {
        "study": setup.config.name,
        "identity": study_identity(trials.database, trials.study),
        "method": setup.config.genome.merge_method,
        "models": list(setup.genome.models),
        "base": setup.genome.base,
        "tasks": {task.name: task.weight for task in setup.config.tasks},
        "questions": {
            "search": {t.name: len(t.questions) for t in setup.search.tasks},
            "held_out": {t.name: len(t.questions) for t in setup.held_out.tasks},
        },
        "trials": {
            "finished": len(state.finished),
            "budget": setup.config.study.trials,
            "failed": sum(r.failed for r in records),
            "population": population,
            "generation": state.generation,
        },
        "verdict": judgement.to_dict(),
        "unscored": jobs.unscored(records),
        "scores": history.scores(records),
        "convergence": history.convergence(state, replay),
        "importance": history.importance(trials.frozen()),
        "seconds": history.seconds(records),
        "merge": None if shown is None else _merge(shown, setup.genome),
        "never_right": flips.never_right(
            setup.search.tasks, records, answers, trials.study._study_id
        ),
        "flips": _flips(setup, judgement),
    }


def _shown(judgement: Judgement, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The merge whose numbers are shown: the final one, before there is one the best so far."""
    return judgement.final.contender.record if judgement.final else best_merge(records)


def _merge(record: TrialRecord, genome: Genome) -> dict[str, Any]:
    """A merge's numbers: for each parameter a row a model, a column a block and filter."""
    recipe: MergeRecipe = recipe_of(record, genome)
    sets = [*recipe.filters, "rest"] if recipe.filters else [""]
    columns = [f"{knot} {name}".strip() for knot in genome.knots for name in sets]
    values = {
        parameter: [
            [
                knot[m][f]
                for knot in _spread(values_KMF, len(genome.knots))
                for f in range(len(sets))
            ]
            for m in range(len(recipe.models))
        ]
        for parameter, values_KMF in recipe.values.items()
    }
    return {
        "trial": record.number,
        "scale": recipe.scale,
        "models": list(recipe.models),
        "columns": columns,
        "values": values,
    }


def _spread(values_KMF: Sequence[Any], knots: int) -> list[Any]:
    """One entry a block, also where the recipe has one for all."""
    return [values_KMF[min(k, len(values_KMF) - 1)] for k in range(knots)]


def _flips(setup: Setup, judgement: Judgement) -> dict[str, Any] | None:
    """Between the best parent and the final merge, on held-out questions or else on search ones."""
    final = judgement.final
    parents = [line for line in judgement.contenders if line.contender.role == "parent"]
    if final is None or not parents:
        return None
    held_out = final.held_out is not None and all(p.held_out is not None for p in parents)
    parent = max(parents, key=lambda line: _value(line, held_out))
    exam = setup.held_out if held_out else setup.search
    of: Mapping[bool, Any] = {True: lambda x: x.held_out, False: lambda x: x.search}
    return {
        "parent": parent.contender.name,
        "split": "held-out" if held_out else "search",
        "tasks": flips.flips(exam.tasks, of[held_out](parent), of[held_out](final)),
    }


def _value(line: ScoredContender, held_out: bool) -> float:
    scores = line.held_out if held_out else line.search
    assert scores is not None
    return scores.value
