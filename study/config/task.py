"""The section of a task in a study file, and the fields of its question file."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from .section import MAX_TOKENS, Integer, Number, Section, Text

_NATIVE = {"data", "prompt", "scorer", "max_tokens", "on_bad", "fields"}


class FieldsConfig(Section):
    """The names of the fields of a question file. Files of KDD Cup 2024, ShoppingMMLU and Alpaca do
    not need them."""

    question: Text | Annotated[tuple[Text, ...], Field(min_length=1)]
    """A field, or several, whose texts are joined by line breaks."""
    answer: Text
    options: Text | Annotated[tuple[Text, ...], Field(min_length=2, max_length=26)] | None = None
    """A field with all options, or a field for each option; they are appended to the question."""
    first: Literal[0, 1] | None = None
    """The number of the first option; required if answers are numbers."""

    @model_validator(mode="after")
    def _check_first(self) -> Self:
        if self.first is not None and self.options is None:
            raise ValueError("first: has no effect, because fields.options is not set")
        return self


class TaskConfig(Section):
    """One task. A bare name refers to NAME.yaml beside the file, else to a task of lm-eval."""

    name: str = Field(min_length=1)
    weight: Number = 1.0
    """Weight in the objective; a negative weight minimises the task's score."""
    metric: Text = "acc,none"
    """lm-eval's tasks: METRIC,FILTER. Native tasks have this value only."""
    kind: Literal["multiple_choice", "retrieval", "lm_eval"] | None = None
    data: Path | None = None
    prompt: str | None = None
    """The name or the file of a template; None is the kind's default."""
    scorer: Literal["official", "exact"] = "official"
    max_tokens: Integer | None = Field(default=None, ge=1, le=MAX_TOKENS)
    """None is 1 for multiple choice and 7 for retrieval."""
    on_bad: Literal["refuse", "skip"] = "refuse"
    """The handling of a row that is not a valid question or is too long for the models."""
    fields: FieldsConfig | None = None
    """None uses the standard fields that a row has."""
    scorer_concurrency: Integer = Field(default=1, ge=1)
    """lm-eval's tasks: documents that are scored at the same time, in threads if more than 1."""
    scorer_timeout: Number = Field(default=60.0, gt=0)
    """lm-eval's tasks: seconds that scoring a document may take; ten times as long for a filter or
    an aggregation."""
    scorer_retries: Integer = Field(default=4, ge=0)
    """lm-eval's tasks: retries of failed scoring before the trial fails."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind is None and "kind" in self.model_fields_set:
            raise ValueError("kind: must be multiple_choice, retrieval or lm_eval, not null")
        if self.kind == "lm_eval":
            native = self.model_fields_set & _NATIVE
            if native:
                raise ValueError(
                    f"{min(native)}: is not used for tasks of lm-eval; a task with a question file "
                    "needs kind: multiple_choice or retrieval"
                )
        elif self.metric != "acc,none":
            raise ValueError(f"metric: must be acc,none for a {self.kind} task")
        elif of_lm_eval := [key for key in self.model_fields_set if key.startswith("scorer_")]:
            raise ValueError(f"{min(of_lm_eval)}: is only used for tasks of lm-eval")
        return self
