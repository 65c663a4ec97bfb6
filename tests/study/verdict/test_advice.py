"""What a study's scores say about the search and the models."""

from dataclasses import replace

import numpy as np
import pytest

from objectives.scoring import Scores, TaskScores
from study.verdict.advice import MIN_STALLED, sentences, stalled_since
from study.verdict.comparison import Comparison
from study.verdict.ensemble import EnsembleScore
from study.verdict.judge import Judgement
from study.verdict.scoreboard import ScoredContender
from tests.support.reports import judgement, scored

QUESTIONS = 200
NOISE = np.random.default_rng(3)


def parent(name: str, right_Q: np.ndarray) -> ScoredContender:
    scores_Q = right_Q.astype(np.float32)
    scores = Scores({"choice": TaskScores(1.0, scores_Q, scores_Q)})
    return replace(scored(name, 0.5), held_out=scores)


def with_parents(*parents: ScoredContender, ensemble: float = 0.9) -> Judgement:
    verdict = judgement("merge")
    return replace(
        verdict,
        contenders=[*parents, *verdict.contenders],
        comparisons=[],
        ensemble={"choice": EnsembleScore(ensemble, 0.01)},
    )


RIGHT = NOISE.random(QUESTIONS) < 0.6
OTHER = NOISE.random(QUESTIONS) < 0.5


def test_different_parents_whose_ensemble_is_better_need_no_advice() -> None:
    assert sentences(with_parents(parent("a", RIGHT), parent("b", OTHER)), [], False) == []


def test_parents_that_answer_alike_are_named() -> None:
    twin = RIGHT.copy()
    twin[:6] = ~twin[:6]
    [text] = sentences(with_parents(parent("a", RIGHT), parent("b", twin)), [], False)
    assert text.startswith("The parents score alike on 97% of the held-out questions or more")


def test_an_ensemble_that_is_not_better_than_a_parent_is_named() -> None:
    verdict = with_parents(parent("a", RIGHT), parent("b", OTHER), ensemble=0.4)
    [text] = sentences(verdict, [], False)
    assert f"not better than the best parent on choice (0.400 and {RIGHT.mean():.3f})" in text


@pytest.mark.parametrize(("difference", "count"), [(-0.05, 1), (-0.02, 0), (0.05, 0)])
def test_a_uniform_merge_that_is_worse_than_a_parent_shows_interference(
    difference: float, count: int
) -> None:
    uniform = scored("uniform 0.50", 0.5, "uniform")
    name = uniform.contender.name
    verdict = replace(
        with_parents(uniform),
        comparisons=[Comparison(name, "parent a", difference, 0.015, 0.03, None, {})],
    )
    found = [text for text in sentences(verdict, [], False) if "interfere" in text]
    assert len(found) == count
    assert all("worse than parent a, by -5.0 ± 3.0 points" in text for text in found)


@pytest.mark.parametrize(("difference", "count"), [(0.01, 1), (0.05, 0)])
def test_the_gradient_is_recommended_if_the_merge_is_not_better(
    difference: float, count: int
) -> None:
    verdict = judgement("merge")
    assert verdict.final is not None
    name = verdict.final.contender.name
    comparison = Comparison(name, "parent a", difference, 0.015, 0.03, None, {})
    verdict = replace(verdict, comparisons=[comparison])
    assert len([t for t in sentences(verdict, [], True) if "algorithm: gradient" in t]) == count
    assert not sentences(verdict, [], False)


def test_generations_that_stop_rising_are_found() -> None:
    noise_G = 0.004 * np.random.default_rng(1).standard_normal(40)
    rising_G = 0.5 + 0.004 * np.arange(40) + noise_G
    flat_G = 0.5 + noise_G
    both_G = 0.5 + 0.004 * np.minimum(np.arange(40), 15) + noise_G
    assert stalled_since(rising_G.tolist()) is None
    assert stalled_since(flat_G.tolist()) == 0
    found = stalled_since(both_G.tolist())
    assert found is not None
    assert 8 <= found <= 20
    assert stalled_since(flat_G[: MIN_STALLED - 1].tolist()) is None
    [text] = sentences(with_parents(), both_G.tolist(), False)
    assert f"beyond their noise since generation {found}, of 40," in text
