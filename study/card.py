"""The README.md of an exported merge, in the hub's model card format."""

from collections.abc import Sequence

import yaml
from jinja2 import Environment, StrictUndefined

from storage.trials import TrialRecord

from .genome import references as references_of
from .setup import Setup
from .summary import Line

_CARD = Environment(
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
).from_string(
    """\
---
{{ front }}---

# {{ name }}

A merge of {{ models | join(", ") }}{% if base %} over {{ base }}{% endif %}, method \
`{{ method }}`: trial {{ number }} of the study `{{ study }}`.

| | {% for task in tasks %}{{ task }} | {% endfor %}weighted |
|---|{% for _ in tasks %}---|{% endfor %}---|
{% for name, cells in rows %}
| {{ name }} | {{ cells | join(" | ") }} |
{% endfor %}

Each cell: score on the questions that the search saw / on held-out questions. The best trial of
a search is partly lucky, so the first number overstates; judge by the second.

## Reproduce

`recipe.json` holds every number of the merge, with the seed of its random masks: the same
recipe over the same models gives the same weights. `mergekit_config.yml` is the same merge in
mergekit's format (`mergekit-yaml mergekit_config.yml OUT`); mergekit draws masks of its own, so
there a dare or della merge has the same distribution and not the same bits.
"""
)


def model_card(setup: Setup, record: TrialRecord, lines: Sequence[Line]) -> str:
    """The text of the card for one trial, with the scores of the study's main merges."""
    config = setup.config
    tasks = [task.name for task in config.tasks]
    references = references_of(config.genome)
    front = {
        "base_model": list(references.values()),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "mergekit", "evolutionary-merge", config.genome.merge_method],
    }
    return _CARD.render(
        front=yaml.safe_dump(front, sort_keys=False),
        name=f"{config.name}, trial {record.number}",
        models=[references[label] for label in setup.genome.models],
        base=references.get(setup.genome.base) if setup.genome.base else None,
        method=config.genome.merge_method,
        number=record.number,
        study=config.name,
        tasks=tasks,
        rows=[(line.name, line.cells(tasks)) for line in lines],
    )
