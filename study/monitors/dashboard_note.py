"""Updates the study's note and figures on the dashboard."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import optuna
from jinja2 import Environment, StrictUndefined

from objectives.merge.recipe import PathRecipe
from storage.database.database import Database
from storage.database.url import redacted
from storage.studies import stored_verdict
from storage.trials import TrialRecord
from study.cli.escaping import Markdown, markdown, markdown_code, printable
from study.cli.invocation import run_command
from study.cli.text import score_text
from study.search.genome import Genome, recipe_of
from study.search.paths.genome import PathGenome
from study.search.state import SearchState, best_merge
from study.setup.setup import Setup

from .monitor import Monitor

_NOTE = Environment(
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    finalize=markdown,
).from_string(
    """\
## {{ name }}

Searches {{ parameters }} parameters of {% if by_layers %}a path through the layers\
{% else %}a {{ method }} merge{% endif %} of {{ models | join(", ") }}\
{% if base %} over {{ base }}{% endif %}, scored on {{ tasks | join(", ") }}: \
{{ rule }}.

**{{ finished }} of {{ budget }} \
{% if by_gradient %}steps**{% else %}\
search trials**, generation {{ generation }} ({{ population }} trials each){% endif %}\
{% if failed %}, {{ failed }} trials failed and were repeated{% endif %}. \
Updated after each {{ "step" if by_gradient else "generation" }}, last at {{ now }} UTC.

{% if verdict %}
### Verdict after {{ verdict.after }} search trials

{{ verdict.sentence }}

{% endif %}
{% if best %}
### Best merge so far: trial {{ best.number }}\
{% if best.baseline %} ({{ best.baseline }}){% endif %}


**{{ best_score }}**{% if best.error is not none %} (95%){% endif %}\
{% for task, mean in best.tasks.items() %}; {{ task }} {{ "%.3f" | format(mean) }}{% endfor %}. \
The highest of many noisy scores overstates the quality of the merge; the held-out questions \
measure it.

| {{ quantities }} |{% for column in columns %} {{ column }} |{% endfor %}

|---|{% for _ in columns %}---|{% endfor %}

{% for knot, cells in rows %}
| {{ knot }} |{% for cell in cells %} {{ cell }} |{% endfor %}

{% endfor %}

{% endif %}
### Resume the study, or add a worker

    {{ command }}
"""
)


class DashboardNote(Monitor):
    """Rewrites the note and the figures after each generation."""

    def __init__(
        self, setup: Setup, database: Database, study: optuna.Study, population: int
    ) -> None:
        self._setup, self._database, self._study = setup, database, study
        self._population = population

    def on_generation(self, records: Sequence[TrialRecord]) -> None:
        from storage.dashboard import post  # both import plotly, which takes a second

        from .dashboard_figures import figures

        database, study = self._database, self._study
        verdict = database.retry(lambda: stored_verdict(study))
        text = note(self._setup, records, self._population, database.url, verdict)
        drawn = figures(records)
        database.retry(lambda: post(database, study, text, drawn))


def note(
    setup: Setup,
    records: Sequence[TrialRecord],
    population: int,
    url: str,
    verdict: Mapping[str, Any] | None = None,
) -> str:
    """Return the note as Markdown, with `url` without its password and the stored `verdict`."""
    genome, config = setup.genome, setup.config
    state = SearchState.of(records, population)
    top = best_merge(records)
    return _NOTE.render(
        name=config.name,
        parameters=len(genome.space),
        method=markdown_code(config.genome.merge_method),
        models=genome.models,
        base=genome.base,
        tasks=[f"{task.name} (weight {task.weight:g})" for task in config.tasks],
        rule=setup.rules.ranking_text,
        finished=len(state.finished),
        budget=config.study.trials,
        generation=state.generation,
        population=population,
        by_gradient=setup.rules.by_gradient,
        by_layers=config.by_layers,
        failed=sum(record.failed for record in records),
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        verdict=verdict,
        best=top,
        best_score="" if top is None else score_text(top.value or 0.0, top.error),
        **(_table(top, genome) if top else {}),
        command=Markdown(printable(run_command(config, redacted(url)))),
    )


def _table(record: TrialRecord, genome: Genome) -> dict[str, Any]:
    """Return the parameters of a merge: a row per block, a column per model and per shared
    parameter; of a path, a row per layer."""
    recipe = recipe_of(record, genome)
    if isinstance(recipe, PathRecipe):
        hops = [[hop.model, str(hop.layer), f"{hop.scale:.2f}"] for hop in recipe.hops]
        rows = [(str(position), cells) for position, cells in enumerate(hops)]
        return {"quantities": "position", "columns": ["model", "layer", "scale"], "rows": rows}
    if isinstance(genome, PathGenome):  # a model, which is no path
        return {"quantities": "model", "columns": [], "rows": [(recipe.models[0], [])]}
    sets = [*recipe.filters, "rest"] if recipe.filters else [""]
    rows = []
    for k, knot in enumerate(genome.knots):
        for f, name in enumerate(sets):
            cells = [
                " / ".join(f"{values[min(k, len(values) - 1)][m][f]:.2f}" for values in lists)
                for m in range(len(recipe.models))
                if (lists := list(recipe.values.values()))
            ]
            shared = [f"{v[min(k, len(v) - 1)][f]:.4g}" for v in recipe.shared.values()]
            rows.append((f"{knot} {name}".strip(), cells + shared))
    columns = [*(recipe.models if recipe.values else ()), *recipe.shared]
    return {"quantities": " / ".join(recipe.values), "columns": columns, "rows": rows}
