"""Tests of what a study with other settings than the stored ones is told to do."""

from pathlib import Path
from typing import Any

import pytest

from storage.database.database import open_storage
from storage.errors import StorageError, StudyMismatch
from storage.studies import create_study, find_study, stored_start
from storage.trials import Trials
from study.search.space import ranges
from study.search.warm_start import store_start
from study.setup.enter import create_or_find_study
from study.setup.matching import can_start_from, check_fingerprint
from tests.support.sleeping_study import NAME, TinyChoice, run, tiny_config, tiny_setup

POPULATION = 5
CHOICE = TinyChoice("tiny", "cpu", "float32", 1)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A study of ten search trials, the fewest from which another one can start."""
    url = f"sqlite:///{tmp_path_factory.mktemp('stored')}/s.db"
    assert run(url, tiny_config(10, POPULATION))
    return url


@pytest.mark.parametrize(
    ("differing", "possible"),
    [
        ({"seed", "population", "sigma", "search.soft", "task choice"}, True),
        ({"space a/layers.0-3/weight"}, True),
        ({"seed", "held_out"}, False),
        ({"held-out questions of choice"}, False),
        ({"search questions of choice"}, False),
        ({"models", "model b"}, False),
        ({"model b"}, False),
        ({"base_model"}, False),
        ({"merge_method"}, False),
        ({"parameters"}, False),
        ({"filters"}, False),
        ({"genome.kind"}, False),
    ],
)
def test_a_start_needs_the_same_merges_and_questions(
    url: str, differing: set[str], possible: bool
) -> None:
    earlier = find_study(open_storage(url, create=False), NAME)
    assert can_start_from(tiny_setup(tiny_config(10)), earlier, differing) == possible


def test_a_start_that_would_be_refused_is_not_suggested(url: str, tmp_path: Path) -> None:
    earlier = find_study(open_storage(url, create=False), NAME)
    random = tiny_config(10).model_copy(update={"random_init": True})
    assert not can_start_from(tiny_setup(random), earlier, {"seed"})
    other_parameters = tiny_config(10, wide=True)
    assert not can_start_from(tiny_setup(other_parameters), earlier, {"seed"})
    few = f"sqlite:///{tmp_path}/few.db"
    assert run(few, tiny_config(9, POPULATION))
    too_short = find_study(open_storage(few, create=False), NAME)
    assert not can_start_from(tiny_setup(tiny_config(10)), too_short, {"seed"})


def mismatch(url: str, choice: TinyChoice | None, **study: Any) -> str:
    setup = tiny_setup(tiny_config(10, POPULATION, **study))
    earlier = find_study(open_storage(url, create=False), NAME)
    with pytest.raises(StudyMismatch) as error:
        check_fingerprint(setup, earlier, choice)
    return str(error.value)


def test_the_message_names_the_ways_to_go_on(url: str) -> None:
    first = (
        "the stored study tiny was created with different settings:\n  seed: 0 stored, 1 now\n"
        "restore these settings"
    )
    assert mismatch(url, None, seed=1) == first
    assert mismatch(url, CHOICE, seed=1) == (
        f"{first}, or choose another study.name for a new study; with study.start_from: tiny it "
        "begins where this one ended"
    )


def test_the_suggested_start_is_accepted(url: str) -> None:
    storage = open_storage(url)
    another = create_study(storage, "another")
    earlier = Trials(storage, find_study(storage, NAME))
    store_start(another, earlier, ranges(tiny_setup(tiny_config(10, seed=1)).genome.space))
    assert stored_start(another) is not None


def test_a_study_of_another_program_is_refused_as_before(tmp_path: Path) -> None:
    import optuna

    url = f"sqlite:///{tmp_path}/s.db"
    storage = open_storage(url)
    optuna.create_study(storage=storage, study_name=NAME, direction="maximize").optimize(
        lambda trial: 1.0, 1
    )
    with pytest.raises(StorageError, match=r"another program; choose another study\.name"):
        create_or_find_study(tiny_setup(tiny_config(10)), storage, CHOICE)
