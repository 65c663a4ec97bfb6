"""The texts of an exported folder: model card, verdict, and origin."""

import json
from collections.abc import Mapping, Sequence

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined

from objectives.merge.recipe import MergeRecipe, PathRecipe
from objectives.sampling import Sample
from storage.database.url import redacted
from storage.scores import HELD_OUT, SEARCH, ScoreStore
from storage.trials import TrialRecord
from study.cli.escaping import Markdown, markdown, markdown_code, printable
from study.config.genome import references as references_of
from study.search.contenders import Contender
from study.search.genome import recipe_of
from study.search.stored_scores import scores_of
from study.setup.setup import Setup
from study.verdict.judge import Judgement
from study.verdict.scoreboard import ScoredContender

CARD_FILE, VERDICT_FILE, STUDY_FILE = "README.md", "verdict.json", "study.json"

_CARD = Environment(
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    finalize=markdown,
).from_string(
    """\
---
{{ front }}
---

# {{ name }}

{% if copied %}
A copy of {{ copied }}: {{ what }} of the study {{ study }}.
{% elif hops %}
{{ "A path of" if used | length > 1 or not in_order else "The" }} {{ hops }} layers \
{{ "through" if used | length > 1 else "of" }} {{ used | join(", ") }}\
{% if scaled %}, with scales{% endif %}: {{ what }} of the study {{ study }}.
{% else %}
A merge of {{ models | join(", ") }}{% if base %} over {{ base }}{% endif %}, method \
{{ method }}: {{ what }} of the study {{ study }}.
{% endif %}

{{ verdict }}

| | {% for task in tasks %}{{ task }} | {% endfor %}weighted | optimism |
|---|{% for _ in tasks %}---|{% endfor %}---|---|
{% for name, cells in rows %}
| {{ name }} |{% for cell in cells %} {{ cell }} |{% endfor %}

{% endfor %}

Each cell: score on the search questions / on the held-out questions, ± half of a 95%
confidence interval. The search selects merges by their scores on its own questions, so these scores
are biased upwards: the optimism is the first number minus the second.\
{% if sampled %} Trial {{ number }} was asked a sample of the search questions, so its score on \
them is an estimate.{% endif %}


## Reproduce

{% if hops %}
`recipe.json` lists the layers of the path with their scales: the same recipe and the same models
produce the same weights. If mergekit can make this model, `mergekit_config.yml` is its
configuration, of method passthrough. `python -m study.verify` asks the questions again and compares
the answers; `sha256sum --check SHA256SUMS` checks the weights.
{% else %}
`recipe.json` contains all parameters of the merge and the seed of its random masks: the same recipe
and the same models produce the same weights. `mergekit_config.yml` is the same merge in mergekit's
format (`mergekit-yaml mergekit_config.yml OUT`). mergekit draws its own random masks, so a dare or
della merge has the same distribution there, but not the same bits. `python -m study.verify` asks
the questions again and compares the answers; `sha256sum --check SHA256SUMS` checks the weights.
{% endif %}
"""
)


def model_card(
    setup: Setup,
    record: TrialRecord,
    judgement: Judgement,
    answers: ScoreStore,
    samples: Mapping[str, Sample],
) -> str:
    """Return the model card of a trial in the hub's format, with the scores of all contenders.

    `samples` has the tasks of which the trial was asked a sample.
    """
    config, tasks = setup.config, judgement.tasks
    references = references_of(config.genome)
    line = _line_of(record, judgement.contenders, answers, samples)
    lines = [*judgement.contenders, *([] if line in judgement.contenders else [line])]
    final = judgement.final is not None and judgement.final.contender.record.id == record.id
    recipe = recipe_of(record, setup.genome)
    hops = recipe.hops if isinstance(recipe, PathRecipe) else ()
    copied = recipe.copied_model if isinstance(recipe, MergeRecipe) else None
    return _CARD.render(
        copied=None if copied is None else references[copied],
        hops=len(hops),
        used=[references[label] for label in dict.fromkeys(hop.model for hop in hops)],
        in_order=[hop.layer for hop in hops] == list(range(setup.sources.num_layers)),
        scaled=any(hop.scale != 1.0 for hop in hops),
        front=Markdown(_front(setup, record, line, list(references.values()), samples)),
        name=f"{config.name}, trial {record.number}",
        number=record.number,
        models=[references[label] for label in setup.genome.models],
        base=references.get(setup.genome.base) if setup.genome.base else None,
        method=markdown_code(config.genome.merge_method),
        what=f"{'the final merge, ' if final else ''}trial {record.number}",
        study=markdown_code(config.name),
        verdict=judgement.sentence
        if final
        else f"About the study's final merge: {judgement.sentence}",
        tasks=tasks,
        sampled=bool(samples),
        rows=[(line.name, line.cells(tasks)) for line in lines],
    )


def texts(
    setup: Setup,
    record: TrialRecord,
    judgement: Judgement,
    url: str,
    identity: str | None = None,
) -> dict[str, str]:
    """Return the texts of verdict.json and of study.json, which `study.verify` reads, by file name.

    `identity` is the identity of the stored study (storage/identity.py).
    """
    verdict = judgement.to_dict() | {"exported": record.number}
    study = {
        "study": setup.config.name,
        "trial": record.number,
        "config": str(setup.config.file.resolve()),
        "storage": redacted(url),
        "identity": identity,
        "questions": {SEARCH: setup.search.digests(), HELD_OUT: setup.held_out.digests()},
    }
    return {VERDICT_FILE: _json(verdict), STUDY_FILE: _json(study)}


def _line_of(
    record: TrialRecord,
    contenders: Sequence[ScoredContender],
    answers: ScoreStore,
    samples: Mapping[str, Sample],
) -> ScoredContender:
    """Return the line of the trial; if it is no contender, a line of its own."""
    line = next((c for c in contenders if c.contender.record.id == record.id), None)
    if line is not None:
        return line
    search, held_out = (answers.read(record.id, split) for split in (SEARCH, HELD_OUT))
    this = Contender("best", "this merge", record)
    return ScoredContender(
        this, scores_of(search, samples), scores_of(held_out) if held_out else None
    )


def _front(
    setup: Setup,
    record: TrialRecord,
    line: ScoredContender,
    base_models: list[str],
    samples: Mapping[str, Sample],
) -> str:
    """Return the hub's metadata, with the held-out scores, else with the search scores."""
    part, scores = ("held-out", line.held_out) if line.held_out else ("search", line.search)
    sampled, sample = {} if line.held_out else samples, "a sample of the "
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=printable(name),
            dataset_name=f"{printable(name)}, {sample if name in sampled else ''}{part} questions",
            metric_type="accuracy",
            metric_name="score",
            metric_value=round(task.mean, 4),
        )
        for name, task in scores.tasks.items()
    ]
    evolutionary = [] if setup.rules.by_gradient else ["evolutionary-merge"]
    data = ModelCardData(
        base_model=[printable(model) for model in base_models],
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["merge", "mergekit", *evolutionary, setup.config.genome.merge_method],
        model_name=f"{setup.config.name}, trial {record.number}",
        eval_results=results or None,
    )
    return data.to_yaml().rstrip()


def _json(data: object) -> str:
    return json.dumps(data, indent=2) + "\n"
