"""A search with a fast objective."""

from collections.abc import Mapping

from storage.claims import Claims
from storage.database.database import open_storage
from storage.studies import create_study
from storage.trials import Trials
from study.config.genome import Range
from study.search.sampler import Replay, ReplaySampler, distributions, start_of
from study.search.state import Evaluation, SearchState, Slot

SPACE = {f"p{i}": Range(low=-0.4, high=1.4) for i in range(6)} | {"d": Range(low=0.4, high=1.0)}


BOUNDS = {name: (r.low, r.high) for name, r in SPACE.items()}
DISTRIBUTIONS = distributions(SPACE)


POPULATION = 5


def sampler(seed: int = 3, start: list[float] | None = None) -> ReplaySampler:
    middle = start_of(SPACE, seed, random=False) if start is None else start
    return ReplaySampler(Replay(SPACE, seed, POPULATION, 1 / 6, middle), SPACE)


def objective(params: Mapping[str, float]) -> float:
    return -sum((value - 0.3) ** 2 for value in params.values())


def advance(
    trials: Trials, search: ReplaySampler, count: int, fail: frozenset[int] = frozenset()
) -> None:
    """Run `count` trials as a worker does; trials whose number is in `fail` fail."""
    for _ in range(count):
        state = SearchState.of(trials.all(), POPULATION)
        slot = state.free_slots()[0]
        params = search.replay.propose(slot, state.finished)
        attributes = slot.attributes
        trial_id = claims(trials).start(slot.name, params, DISTRIBUTIONS, attributes)
        number = len(trials.all()) - 1
        if number in fail:
            claims(trials).fail(trial_id, "asked to")
        else:
            claims(trials).finish(trial_id, objective(params), {}, {}, {})


def proposals(trials: Trials) -> dict[Slot, Evaluation]:
    return SearchState.of(trials.all()).finished


def new(url: str, name: str) -> Trials:
    storage = open_storage(url)
    return Trials(storage, create_study(storage, name))


def claims(trials: Trials) -> Claims:
    return Claims(trials.database, trials.study._study_id, "me")
