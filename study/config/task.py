"""The section of one task in a study file, and the fields of its question file."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from .section import MOST_TOKENS, Number, Section, Text, Whole

_NATIVE = {"data", "prompt", "scorer", "max_tokens", "on_bad", "fields"}


class FieldsConfig(Section):
    """Which fields of a question file hold what. None of it is needed for those of KDD Cup 2024,
    ShoppingMMLU and Alpaca."""

    question: Text | Annotated[tuple[Text, ...], Field(min_length=1)]
    """A field, or several whose texts are joined by line breaks."""
    answer: Text
    options: Text | None = None
    """A list of texts, which are written below the question."""
    first: Literal[0, 1] | None = None
    """The number of the first of these options; needed if answers are numbers."""

    @model_validator(mode="after")
    def _first_is_of_options(self) -> Self:
        if self.first is not None and self.options is None:
            raise ValueError("first: counts the options of a field; fields.options is not set")
        return self


class TaskConfig(Section):
    """One task. A bare name is looked up as NAME.yaml beside the file, then among lm-eval's."""

    name: str = Field(min_length=1)
    weight: Number = 1.0
    """Share in the objective; a negative one minimises the task's score."""
    metric: Text = "acc,none"
    """lm-eval's tasks: a metric and the filter it stands behind. Native ones know this value."""
    kind: Literal["multiple_choice", "retrieval", "lm_eval"] | None = None
    data: Path | None = None
    prompt: str | None = None
    """A template's name or file; None takes the kind's own."""
    scorer: Literal["official", "exact"] = "official"
    max_tokens: Whole | None = Field(default=None, ge=1, le=MOST_TOKENS)
    """None is 1 for multiple choice and 7 for retrieval."""
    on_bad: Literal["refuse", "skip"] = "refuse"
    """What happens to a row that is no question, or is too long for the models."""
    fields: FieldsConfig | None = None
    """None takes the known ones that a row has."""
    scorer_concurrency: Whole = Field(default=1, ge=1)
    """lm-eval's tasks: documents whose answers are scored at a time, in threads if more than 1."""
    scorer_timeout: Number = Field(default=60.0, gt=0)
    """lm-eval's tasks: seconds that the scoring of a document may take; a filter or an aggregation
    may take ten times as long."""
    scorer_retries: Whole = Field(default=4, ge=0)
    """lm-eval's tasks: how often scoring is repeated after a failure, before the trial fails."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        if self.kind is None and "kind" in self.model_fields_set:
            raise ValueError("kind: must be multiple_choice, retrieval or lm_eval, not null")
        if self.kind == "lm_eval":
            ours = self.model_fields_set & _NATIVE
            if ours:
                raise ValueError(
                    f"{min(ours)}: a task of lm-eval says that in its own file; a task with a "
                    "question file needs kind: multiple_choice or retrieval"
                )
        elif self.metric != "acc,none":
            raise ValueError(f"metric: a {self.kind} task has acc,none alone")
        elif theirs := [key for key in self.model_fields_set if key.startswith("scorer_")]:
            raise ValueError(f"{min(theirs)}: only a task of lm-eval has a scorer of its own")
        return self
