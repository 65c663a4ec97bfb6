"""Which merges and models of a study are compared in the end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from storage.trials import TrialRecord

from .genome import Genome
from .jobs import AFTER, BEST, MEAN, ROLE
from .state import best, best_search

Role = Literal["base", "parent", "uniform", "best", "top", "mean"]

PREFERENCE: tuple[Role, ...] = ("mean", "top", "uniform", "best")
"""What may be final, of equals the earlier: the less a merge was selected, the less luck is in its
search score."""


@dataclass(frozen=True)
class Candidate:
    """A merge or model of the final comparison."""

    role: Role
    name: str
    record: TrialRecord

    @property
    def label(self) -> str:
        """The name, and the trial that scored it."""
        if self.role in ("base", "parent", "uniform"):
            return self.name
        number = f"{self.record.number}" if self.role == "best" else f"trial {self.record.number}"
        return f"{self.name} ({number})"

    @property
    def may_be_final(self) -> bool:
        return self.role in PREFERENCE


def candidates(records: Sequence[TrialRecord], genome: Genome) -> list[Candidate]:
    """Base, parents, the best uniform merge, the best trial, and the latest merges that the search
    came to; of these what is scored on the search questions."""
    return list(_found([r for r in records if r.complete], genome))


def _found(complete: Sequence[TrialRecord], genome: Genome) -> Iterator[Candidate]:
    baselines = {r.baseline: r for r in reversed(complete) if r.baseline}
    for baseline in genome.baselines():
        record = baselines.get(baseline.name)
        if record is not None and baseline.kind == "base":
            yield Candidate("base", "base", record)
        elif record is not None and baseline.kind == "parent":
            yield Candidate("parent", f"parent {baseline.name}", record)
    if uniform := best([r for r in complete if r.kind == "uniform"]):
        yield Candidate("uniform", f"best {uniform.baseline}", uniform)
    concluded = [r for r in complete if AFTER in r.attributes]
    last = max((r.attributes[AFTER] for r in concluded), default=0)
    of_role = {str(r.attributes[ROLE]): r for r in concluded if r.attributes[AFTER] == last}
    best_of_all = of_role.pop(BEST, None) or _asked_all(best_search(complete))
    if best_of_all is not None:
        yield Candidate("best", BEST, best_of_all)
    for name in sorted(of_role, key=lambda name: name == MEAN):
        yield Candidate("mean" if name == MEAN else "top", name, of_role[name])


def _asked_all(record: TrialRecord | None) -> TrialRecord | None:
    """The trial, unless it was asked a sample of the search questions: it is then scored again."""
    return record if record is not None and not record.sampled else None
