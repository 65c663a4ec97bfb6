"""Tests of a search that starts from the best trials of an earlier study."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from cmaes import get_warm_start_mgd

from storage.database.database import open_storage
from storage.studies import store_or_check_fingerprint, stored_start
from study.config.errors import ConfigError
from study.config.genome import Range
from study.search.sampler import Replay, distributions
from study.search.state import SearchState, Slot
from study.search.warm_start import distribution, store_start
from study.setup.matching import has_same_questions
from tests.support.commands import command, search_of, start_run, wait_for, write_study
from tests.support.searches import POPULATION, SPACE, advance, claims, new, objective, sampler


def test_the_first_generation_is_near_the_best_trials_of_the_earlier_study(database: str) -> None:
    earlier, later = new(database, "earlier"), new(database, "later")
    advance(earlier, sampler(), 60)
    store_start(later.study, earlier, SPACE)
    start = stored_start(later.study)
    assert start is not None
    mean, sigma, cov = distribution(start)

    shares = [
        (np.array([(p[n] - r.low) / (r.high - r.low) for n, r in SPACE.items()]), -value)
        for p, value in SearchState.of(earlier.all()).finished.values()
    ]
    reference = get_warm_start_mgd(shares, gamma=0.1)
    for actual, expected in zip((mean, sigma, cov), reference, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)

    warm = Replay(SPACE, 3, POPULATION, sigma, list(mean), cov)
    cold = sampler().replay
    slots = [Slot(0, number) for number in range(POPULATION)]
    scores = [[objective(r.propose(slot, {})) for slot in slots] for r in (warm, cold)]
    assert np.mean(scores[0]) > np.mean(scores[1])
    spread = warm.deviations(0, {})
    for name, share, r in zip(SPACE, sigma * np.sqrt(np.diag(cov)), SPACE.values(), strict=True):
        assert spread[name] == pytest.approx(share * (r.high - r.low))


def test_an_unsuitable_earlier_study_is_refused(database: str) -> None:
    earlier, later = new(database, "earlier"), new(database, "later")
    advance(earlier, sampler(), 9)
    with pytest.raises(ConfigError, match="earlier has 9 finished search trials; 10 are needed"):
        store_start(later.study, earlier, SPACE)
    advance(earlier, sampler(), 1)
    with pytest.raises(
        ConfigError, match="earlier did not search q; this study must have the same models"
    ):
        store_start(later.study, earlier, SPACE | {"q": Range(low=0, high=1)})
    assert stored_start(later.study) is None


def test_points_outside_narrower_bounds_are_clipped(database: str) -> None:
    earlier, later = new(database, "earlier"), new(database, "later")
    params = {name: r.high for name, r in SPACE.items()}
    for index in range(10):
        slot = Slot(index // POPULATION, index % POPULATION)
        trial_id = claims(earlier).start(f"t{index}", params, distributions(SPACE), slot.attributes)
        claims(earlier).finish(trial_id, 1.0, {}, {}, {})
    narrow = {name: Range(low=r.low, high=(r.low + r.high) / 2) for name, r in SPACE.items()}
    store_start(later.study, earlier, narrow)
    start = stored_start(later.study)
    assert start is not None
    np.testing.assert_allclose(distribution(start)[0], 1.0)


def test_the_same_search_questions_have_the_same_digests(database: str) -> None:
    earlier = new(database, "earlier")
    facts = {"search questions of a": "3 (x)", "search questions of b": "2 (y)", "seed": "0"}
    store_or_check_fingerprint(earlier.study, facts)
    assert has_same_questions(earlier.study, {"a": "3 (x)", "b": "2 (y)"})
    assert has_same_questions(earlier.study, {"a": "3 (x)"})
    assert not has_same_questions(earlier.study, {"a": "3 (z)", "b": "2 (y)"})
    assert not has_same_questions(earlier.study, {"a": "3 (x)", "c": "1 (w)"})


def from_earlier(data: dict[str, Any]) -> None:
    data["study"] |= {"seed": 7, "start_from": "earlier"}


@pytest.mark.slow
def test_a_study_does_not_depend_on_the_earlier_study_after_its_start(tmp_path: Path) -> None:
    def earlier(data: dict[str, Any]) -> None:
        data["study"] |= {"name": "earlier", "held_out": 0.25}

    url = f"sqlite:///{tmp_path}/s.db"
    for folder, change in (("earlier", earlier), ("whole", from_earlier), ("killed", from_earlier)):
        (tmp_path / folder).mkdir()
        write_study(tmp_path / folder, change)
    result = command("run", tmp_path / "earlier" / "study.yaml", "--storage", url, folder=tmp_path)
    assert result.returncode == 0, result.stderr

    other = f"sqlite:///{tmp_path}/other.db"
    (tmp_path / "other.db").write_bytes((tmp_path / "s.db").read_bytes())
    config = tmp_path / "whole" / "study.yaml"
    result = command("run", config, "--storage", url, folder=tmp_path)
    assert result.returncode == 0, result.stderr

    assert "earlier searched with other questions" in result.stderr

    process = start_run(tmp_path / "killed" / "study.yaml", other)
    wait_for(process, other, 12)
    process.kill()
    process.communicate()
    storage = open_storage(other, create=False)
    optuna.delete_study(study_name="earlier", storage=storage)
    storage.engine.dispose()
    killed = tmp_path / "killed" / "study.yaml"
    result = command("run", killed, "--storage", other, "--workers", 2, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert search_of(other) == search_of(url)

    elsewhere = f"sqlite:///{tmp_path}/empty.db"
    result = command("run", config, "--storage", elsewhere, folder=tmp_path)
    assert result.returncode == 2
    assert "study.start_from: earlier: there is no database" in result.stderr
    assert not (tmp_path / "empty.db").exists()
    open_storage(elsewhere).engine.dispose()
    result = command("run", config, "--storage", elsewhere, folder=tmp_path)
    assert result.returncode == 2
    assert re.search(r"error: no study earlier in .*/empty.db$", result.stderr, re.MULTILINE)
    storage = open_storage(elsewhere, create=False)
    assert optuna.get_all_study_names(storage) == []
    storage.engine.dispose()
    cold = write_study(tmp_path, lambda data: data["study"].update(seed=7))
    result = command("run", cold, "--storage", url, folder=tmp_path)
    assert result.returncode == 2
    assert "start_from: earlier after 10 trials, " in result.stderr
    assert " stored, nothing now" in result.stderr
