"""The section `search` of a study file."""

from typing import Literal

from pydantic import Field

from .section import Integer, Number, Section

_MAX_QUESTIONS = 2**31 - 1
_GRADIENT_KEYS = (
    *("steps", "ascents", "batch", "loss", "loss_q", "start", "rate", "pull", "validation"),
)
_CMAES_KEYS = ("soft", "questions")


class SearchConfig(Section):
    """How merges are proposed, and which questions trials are asked. See docs/search.md."""

    algorithm: Literal["cmaes", "gradient"] = "cmaes"
    """gradient follows the derivative of the objective with respect to the merge parameters."""
    steps: Integer = Field(default=48, ge=1, le=100_000)
    """Steps of each ascent; gradient only. study.trials may stop the search earlier."""
    ascents: Integer = Field(default=1, ge=1, le=1000)
    """Ascents from different starts, which several workers can share; gradient only."""
    batch: Integer = Field(default=96, ge=1, le=_MAX_QUESTIONS)
    """Questions per step; gradient only."""
    loss: Literal["all", "options"] = "all"
    """all uses the probability of the right answer among all texts; options compares it with the
    other options of the question. Gradient only."""
    loss_q: Number = Field(default=0.7, ge=0, le=1)
    """q of the generalized cross-entropy, (1 - p^q) / q of that probability p: 0 is -log p, 1 is
    the expected error, 1 - p. Gradient only."""
    start: str | None = Field(default=None, min_length=1)
    """A model of genome.models that the ascents start at, at weight 1 with the others at 0. None is
    the start of CMA-ES: that of each range, or its middle. Gradient only."""
    rate: Number = Field(default=0.03, gt=0, le=1)
    """Maximum change of a parameter in a step, as a share of its range; gradient only."""
    pull: Number = Field(default=0.0, ge=0)
    """Weight of the squared distance from the start, in shares of the ranges; gradient only."""
    validation: Number = Field(default=0.25, gt=0, lt=1)
    """Share of the search questions that no step uses. They determine when an ascent ends and which
    of its points is selected; gradient only."""
    soft: Number = Field(default=1.0, ge=0, le=1)
    """Weight of the probability of the right answer in the value that CMA-ES ranks trials by. The
    rest is the score. Reports always show the score."""
    questions: Number | None = Field(default=None, gt=0, le=1)
    """Share of the search questions, by their tokens, that a trial is asked, first those whose
    outcome varies between trials. None is a quarter of 400 or more questions, else all."""

    def unsuited_key(self) -> str | None:
        """Return what is wrong with a key that the algorithm does not use, or None."""
        by_gradient = self.algorithm == "gradient"
        for key in _CMAES_KEYS if by_gradient else _GRADIENT_KEYS:
            if key in self.model_fields_set:
                gradient = "search.algorithm: gradient"
                return f"search.{key}: " + (
                    f"has no effect with {gradient}" if by_gradient else f"needs {gradient}"
                )
        return None
