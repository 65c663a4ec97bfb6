"""Sampled questions: unbiased estimates, and samples that depend only on earlier trials."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

from objectives.engines.engine import Answer, Prompt
from objectives.merge.recipe import MergeRecipe
from objectives.sampling import Sample, draw, estimate, inclusion_probabilities
from objectives.scoring import QuestionSet
from objectives.tasks.multiple_choice import MultipleChoice
from objectives.tasks.prompts.prompt import load_template
from objectives.tasks.retrieval import Retrieval
from storage.claims import Claims
from storage.database.database import Database, open_storage
from storage.scores import ScoreStore, StoredScores
from storage.studies import create_study
from storage.trials import TrialRecord, Trials
from study.search.schedule import Schedule
from tests.support.questions import CHOICE, PICK, Characters

QUESTIONS = 200


def population(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores of questions, their expected scores, and their variances."""
    generator = np.random.default_rng(seed)
    varies = generator.random(QUESTIONS) < 0.3
    usual = (generator.random(QUESTIONS) < 0.7).astype(float)
    scores = np.where(varies, (generator.random(QUESTIONS) < 0.5).astype(float), usual)
    return scores, np.where(varies, 0.5, usual), np.where(varies, 0.25, 0.01)


def test_questions_are_drawn_with_their_inclusion_probabilities_at_the_expected_cost() -> None:
    generator = np.random.default_rng(0)
    importance, costs = generator.random(QUESTIONS) ** 3, generator.integers(20, 200, QUESTIONS)
    wanted = inclusion_probabilities(importance, costs.astype(float), 0.5 * costs.sum())
    assert wanted.max() == 1.0
    assert float(wanted @ costs) == pytest.approx(0.5 * costs.sum())
    free = wanted < 1
    assert np.allclose(wanted[free] / importance[free], (wanted / importance)[free][0])
    drawn = np.zeros(QUESTIONS)
    for _ in range(4000):
        asked = draw(wanted, generator)
        assert abs(len(asked) - wanted.sum()) <= 1
        drawn[asked] += 1
    error = np.sqrt(wanted * (1 - wanted) / 4000)
    assert (np.abs(drawn / 4000 - wanted) <= 4.5 * error + 1e-9).all()


def test_questions_of_importance_zero_have_equal_inclusion_probabilities() -> None:
    """Such are the questions of a task with weight 0."""
    assert inclusion_probabilities(np.zeros(10), np.ones(10), 4.0) == pytest.approx(
        np.full(10, 0.4)
    )
    mixed = inclusion_probabilities(np.array([1.0, 1.0, 0.0, 0.0]), np.ones(4), 3.0)
    assert mixed == pytest.approx([1.0, 1.0, 0.5, 0.5])


def test_all_questions_are_drawn_if_the_budget_suffices() -> None:
    assert inclusion_probabilities(np.array([1.0, 0.0]), np.array([5.0, 7.0]), 12.0).tolist() == [
        1.0,
        1.0,
    ]


@pytest.mark.parametrize("hint", ["right", "wrong"])
def test_the_estimate_is_unbiased_and_its_variance_is_correct(hint: str) -> None:
    """For many samples of one population, also with meaningless expected scores."""
    scores, expected, variance = population(1)
    expected = expected if hint == "right" else 1 - expected
    chance = inclusion_probabilities(np.sqrt(variance), np.ones(QUESTIONS), 60)
    generator, estimates = np.random.default_rng(2), []
    for _ in range(3000):
        asked = draw(chance, generator)
        sample = Sample(asked, chance[asked], expected, expected)
        estimates.append(estimate(scores[asked], expected, sample))
    means = np.array([e.mean for e in estimates])
    spread = means.std(ddof=1)
    assert abs(means.mean() - scores.mean()) < 4 * spread / math.sqrt(len(means))
    expected_error = math.sqrt(np.mean([e.sampling_variance for e in estimates]))
    assert expected_error == pytest.approx(spread, rel=0.1)
    assert np.mean([e.variance for e in estimates]) == pytest.approx(scores.var(), rel=0.05)


def test_sampling_by_variance_is_worth_several_times_as_many_questions() -> None:
    scores, expected, variance = population(3)
    generator, spread = np.random.default_rng(4), {}
    for name, importance in (("alike", np.ones(QUESTIONS)), ("varying", np.sqrt(variance))):
        chance = inclusion_probabilities(importance, np.ones(QUESTIONS), 60)
        drawn = [draw(chance, generator) for _ in range(1000)]
        samples = [Sample(asked, chance[asked], expected, expected) for asked in drawn]
        spread[name] = np.std([estimate(scores[s.asked_S], expected, s).mean for s in samples])
    assert spread["alike"] ** 2 > 3 * spread["varying"] ** 2


# A schedule over stored trials


class Parrot:
    """An engine that gives every prompt the same answer and records the prompts."""

    def __init__(self) -> None:
        self.asked: list[Prompt] = []

    def load(self, recipe: MergeRecipe) -> None:
        raise NotImplementedError

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        self.asked = list(prompts)
        return [Answer((ord("1") + 2,), (math.log(0.25),) * len(p.options)) for p in prompts]

    def close(self) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def exam() -> QuestionSet:
    """Forty questions of one task, and ten long ones of another."""
    plain = load_template("plain", Path())
    choices = tuple(replace(CHOICE, text=f"{i:02d} {CHOICE.text}") for i in range(40))
    picks = tuple(replace(PICK, text=f"{i:02d} {'long ' * 20}{PICK.text}") for i in range(10))
    tasks = [
        MultipleChoice("choice", 0.875, choices, plain),
        Retrieval("pick", 0.125, picks, plain),
    ]
    return QuestionSet(tasks, Characters())


def finish_trial(
    database: Database, exam: QuestionSet, generation: int | None, number: int
) -> None:
    """Store a finished trial whose scores depend on its number: one question in four varies."""
    study = create_study(database, "s")
    attributes: dict[str, object] = {"baseline": f"b{number}", "kind": "uniform"}
    if generation is not None:
        attributes = {"generation": generation, "slot": number}
    claims = Claims(database, study._study_id, "me")
    name = f"{generation} {number}"
    trial_id = claims.start(name, {"a": 0.5}, {"a": FloatDistribution(0.0, 1.0)}, attributes)
    answers = {}
    for task in exam.tasks:
        right = np.array(
            [(number + i) % 2 if i % 4 == 0 else 1.0 for i in range(len(task.questions))],
            dtype=np.float32,
        )
        answers[task.name] = StoredScores(task.weight, right, right / 2, 0)
    claims.finish(trial_id, 0.5, {}, {}, answers)


def trials_of(database: Database) -> list[TrialRecord]:
    return Trials(database, create_study(database, "s")).all()


def test_a_schedule_samples_varying_questions_and_repeats_its_samples_after_a_restart(
    database: str, exam: QuestionSet
) -> None:
    storage = open_storage(database)
    for number in range(4):
        finish_trial(storage, exam, None, number)
    for generation in range(2):
        for slot in range(4):
            finish_trial(storage, exam, generation, slot)
    records = trials_of(storage)
    follow, late = (Schedule(exam, ScoreStore(storage), 0.4, 0.0, seed=7) for _ in range(2))
    by_generation = [follow.samples(g, records) for g in range(3)]
    assert late.samples(2, records)["choice"].asked_S.tolist() == (
        by_generation[2]["choice"].asked_S.tolist()
    )
    again = late.samples(1, records)
    assert again["pick"].asked_S.tolist() == by_generation[1]["pick"].asked_S.tolist()
    sample = by_generation[2]["choice"]
    varying = [q for q in range(40) if q % 4 == 0]
    assert set(varying) <= set(sample.asked_S.tolist())
    assert len(sample.asked_S) < 40
    assert len(by_generation[2]["pick"].asked_S) >= 8
    assert sample.expected_Q[1] == 1.0
    assert by_generation[0]["choice"].asked_S.tolist() != sample.asked_S.tolist()
    storage.engine.dispose()


def test_only_the_sample_is_asked_and_the_mean_is_estimated(exam: QuestionSet) -> None:
    engine = Parrot()
    whole = exam.evaluate(engine)
    expected = {t.name: np.linspace(0, 1, len(t.questions)) for t in exam.tasks}
    samples = {
        name: Sample(np.array([1, 3, 8]), np.array([0.5, 0.25, 1.0]), e, e)
        for name, e in expected.items()
    }
    part = exam.evaluate(engine, samples)
    assert len(engine.asked) == part.asked == 6
    for name, task in part.tasks.items():
        assert np.isfinite(task.scores_Q).nonzero()[0].tolist() == [1, 3, 8]
        sampled = whole.tasks[name].scores_Q[[1, 3, 8]]
        assert task.scores_Q[[1, 3, 8]].tolist() == sampled.tolist()
        gaps = (sampled - expected[name][[1, 3, 8]]) / np.array([0.5, 0.25, 1.0])
        assert task.mean == pytest.approx(expected[name].mean() + gaps.sum() / len(task.scores_Q))
        assert task.error >= task.sampling_error > 0
    assert whole.sampling_error == 0
    assert math.isfinite(part.error)
