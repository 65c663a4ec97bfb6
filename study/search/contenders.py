"""The merges and models that a study compares after its search."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from storage.trials import TrialRecord

from .ascent.jobs import LAST_STEPS
from .genome import Genome
from .jobs import BEST, CMA_MEAN, ROLE, final_roles
from .state import AFTER, best, best_search

Role = Literal["base", "parent", "uniform", "best", "top", "mean"]

REFERENCES: tuple[Role, ...] = ("base", "parent", "uniform")
"""Roles that need no search: every contender that can become final is compared with them."""


@dataclass(frozen=True)
class Contender:
    """A merge or model of the final comparison."""

    role: Role
    name: str
    record: TrialRecord

    @property
    def label(self) -> str:
        """The name; for a merge of the search, with the number of the trial that scored it."""
        if self.role in REFERENCES:
            return self.name
        number = f"{self.record.number}" if self.role == "best" else f"trial {self.record.number}"
        return f"{self.name} ({number})"


def contenders(records: Sequence[TrialRecord], genome: Genome) -> list[Contender]:
    """Return the base, the parents, the best uniform merge, the best trial and the latest final
    merges, except those whose search questions are not scored yet."""
    return list(_contenders([r for r in records if r.complete], genome))


def count_contenders(genome: Genome, trials: int, population: int) -> int:
    """Return how many contenders a study has after so many search trials."""
    of_search = final_roles(trials, population, sampled=True)  # the best trial is one in any case
    return count_references(genome) + len(of_search)


def count_references(genome: Genome) -> int:
    """Return the number of contenders that need no search: of the uniform merges only the best."""
    kinds = [baseline.kind for baseline in genome.baselines()]
    return len(kinds) - max(0, kinds.count("uniform") - 1)


def _contenders(complete: Sequence[TrialRecord], genome: Genome) -> Iterator[Contender]:
    baselines = {r.baseline: r for r in reversed(complete) if r.baseline}
    for baseline in genome.baselines():
        record = baselines.get(baseline.name)
        if record is not None and baseline.kind == "base":
            yield Contender("base", "base", record)
        elif record is not None and baseline.kind == "parent":
            yield Contender("parent", f"parent {baseline.name}", record)
    if uniform := best([r for r in complete if r.kind == "uniform"]):
        yield Contender("uniform", f"best {uniform.baseline}", uniform)
    final_merges = [r for r in complete if AFTER in r.attributes]
    last = max((r.attributes[AFTER] for r in final_merges), default=0)
    by_role = {str(r.attributes[ROLE]): r for r in final_merges if r.attributes[AFTER] == last}
    best_trial = by_role.pop(BEST, None) or _unsampled(best_search(complete))
    if best_trial is not None:
        yield Contender("best", BEST, best_trial)
    for name in sorted(by_role, key=lambda name: name in (CMA_MEAN, LAST_STEPS)):
        yield Contender("mean" if name in (CMA_MEAN, LAST_STEPS) else "top", name, by_role[name])


def _unsampled(record: TrialRecord | None) -> TrialRecord | None:
    """Return the trial, or None if it was asked a sample of the search questions; a final job
    scores it again on all of them."""
    return record if record is not None and not record.sampled else None
