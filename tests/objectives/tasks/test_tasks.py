import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from objectives.engines.engine import Answer, Prompt
from objectives.errors import TaskError
from objectives.merge.recipe import MergeRecipe
from objectives.scoring import QuestionSet
from objectives.tasks.multiple_choice import MultipleChoice
from objectives.tasks.prompts.prompt import TemplateError, load_template, named_templates
from objectives.tasks.retrieval import Retrieval
from objectives.tasks.task import Question
from tests.support.paths import DEMO
from tests.support.questions import CHOICE, PICK, Characters

OTHER = Question("What?\n0. x\n1. y\n2. z", "Answer", (2,), (0, 1, 2))


class Scripted:
    """An engine that returns prepared answers."""

    def __init__(self, answers: list[Answer]) -> None:
        self.answers = answers

    def load(self, recipe: MergeRecipe) -> None:
        raise NotImplementedError

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        assert len(prompts) == len(self.answers)
        return self.answers

    def close(self) -> None:
        raise NotImplementedError


def said(text: str, *logprobs: float, finite: bool = True) -> Answer:
    return Answer(tuple(ord(c) + 2 for c in text), logprobs, finite)


@pytest.mark.parametrize("name", named_templates())
def test_prompts_of_every_template_share_a_prefix_and_end_before_the_answer(name: str) -> None:
    template = load_template(name, Path())
    task = MultipleChoice("t", 1.0, (CHOICE, OTHER), template)
    [one], [two] = task.prompts(Characters())
    assert one.shared == two.shared
    assert one.tokens[: one.shared] == two.tokens[: two.shared]
    assert one.tokens[one.shared] != two.tokens[two.shared]
    assert one.options == tuple(ord(c) + 2 for c in "012")
    text = Characters().decode(one.tokens)
    assert CHOICE.text in text
    assert all(e.question in text and e.answer in text for e in template.examples)


def test_the_number_of_examples_can_be_reduced_but_not_raised() -> None:
    assert len(load_template("retrieval_kdd", Path(), 1).examples) == 1
    assert not load_template("retrieval_kdd", Path(), 0).examples
    with pytest.raises(TemplateError, match=r"num_fewshot is 9, but template .* has 3 examples"):
        load_template("retrieval_kdd", Path(), 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preamble: x", "needs the key `turn`"),
        ("{", "cannot read"),
        ("turn: '{{ question }}{{ nothing }}'", "nothing"),
        ("turn: '{% x'", "x"),
        ("turn: a\nexample: b", "unknown key example"),
        ("turn: a\nexamples: [1]", "it must have the strings question and answer"),
    ],
)
def test_an_invalid_template_is_reported_with_the_reason(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(TemplateError, match=message):
        load_template("t.yaml", tmp_path).render(CHOICE)


def test_a_missing_template_is_reported_with_the_available_ones(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="the built-in templates are multiple_choice_instruct"):
        load_template("nope", tmp_path)


def test_an_option_without_a_token_of_its_own_is_refused() -> None:
    class Whole(Characters):
        """Encode a whole text as one token."""

        def encode(self, text: str) -> list[int]:
            return [hash(text)]

    task = MultipleChoice("t", 1.0, (CHOICE,), load_template("plain", Path()))
    with pytest.raises(TaskError, match="end the template's turn with a line break"):
        task.prompts(Whole())


def test_scores_have_means_errors_and_a_weighted_value() -> None:
    plain = load_template("plain", Path())
    choice = MultipleChoice("choice", 0.875, (CHOICE, OTHER), plain)
    pick = Retrieval("pick", 0.125, (PICK,), plain)
    half = math.log(0.5)
    engine = Scripted(
        [
            said("1", math.log(0.2), half, math.log(0.1)),
            said("0", half, math.log(0.2), math.log(0.25)),
            said("3,2,1", math.log(0.3), math.log(0.2), math.log(0.1), math.log(0.4)),
        ]
    )
    scores = QuestionSet([choice, pick], Characters()).evaluate(engine)
    assert scores.tasks["choice"].scores_Q.tolist() == [1.0, 0.0]
    assert scores.tasks["choice"].soft == pytest.approx((0.5 + 0.25) / 2)
    assert scores.tasks["pick"].mean == pytest.approx(2 / 3)
    assert scores.tasks["pick"].soft == pytest.approx(0.3 + 0.1 + 0.4)
    assert scores.value == pytest.approx(0.875 * 0.5 + 0.125 * 2 / 3)
    assert scores.tasks["choice"].error == pytest.approx(0.5)
    assert scores.error == math.inf


def test_hits_are_counted_among_the_first_three_picks_including_repeats() -> None:
    task = Retrieval("pick", 1.0, (PICK,), load_template("plain", Path()))
    [[prompt]] = task.prompts(Characters())
    for text, score in [("1,3,4", 1.0), ("1,1,1", 1 / 3), ("2,2,2,1", 0.0), ("4,3", 2 / 3)]:
        assert task.score(PICK, [prompt], [said(text)], Characters()) == pytest.approx(score)


def test_labels_with_the_same_first_token_are_counted_once(tmp_path: Path) -> None:
    task = Retrieval("pick", 1.0, (PICK,), load_template("plain", tmp_path))
    [[prompt]] = task.prompts(Characters())
    even = said("1", *[math.log(0.25)] * 4)
    assert task.soft(PICK, [prompt], [even]) == pytest.approx(0.75)
    shared = Prompt(prompt.tokens, 0, 7, (5, 6, 5, 5))
    assert task.soft(PICK, [shared], [even]) == pytest.approx(0.25)


def test_the_exact_scorers_accept_only_the_answer_itself() -> None:
    plain = load_template("plain", Path())
    pick = Retrieval("pick", 1.0, (PICK,), plain, scorer="exact")
    [[prompt]] = pick.prompts(Characters())
    for text, score in [("4,1,3", 1.0), ("1,3", 0.0), ("1,3,4,4", 0.0)]:
        assert pick.score(PICK, [prompt], [said(text)], Characters()) == score
    choice = MultipleChoice("choice", 1.0, (CHOICE,), plain, scorer="exact")
    [[prompt]] = choice.prompts(Characters())
    assert choice.score(CHOICE, [prompt], [said("1")], Characters()) == 1.0
    assert choice.score(CHOICE, [prompt], [said(" 1")], Characters()) == 0.0


@pytest.mark.parametrize(("weight", "worst"), [(1.0, 0.0), (-1.0, 1.0)])
def test_a_non_finite_answer_gets_the_worst_score(weight: float, worst: float) -> None:
    task = MultipleChoice("t", weight, (CHOICE, OTHER), load_template("plain", Path()))
    nan = float("nan")
    engine = Scripted([said("1", nan, nan, nan, finite=False), said("2", 0.0, 0.0, 0.0)])
    scores = QuestionSet([task], Characters()).evaluate(engine)
    assert scores.tasks["t"].scores_Q.tolist() == [worst, 1.0]
    assert scores.non_finite == 1


def test_the_demos_question_files_are_read_completely() -> None:
    from objectives.tasks import multiple_choice, retrieval
    from objectives.tasks.questions.question_files import read_questions

    choice = read_questions(
        DEMO / "questions" / "choice.jsonl", "multiple_choice", multiple_choice.parse_row
    )
    picks = read_questions(DEMO / "questions" / "retrieval.jsonl", "retrieval", retrieval.parse_row)
    assert {q.options for q in choice} == {(0, 1, 2, 3)}
    assert {q.cue for q in choice} == {"Answer"}
    assert {len(q.labels) for q in picks} == {3}


def test_prompts_equal_the_tokens_of_their_texts() -> None:
    from objectives.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer("base", DEMO / "models" / "base")
    task = MultipleChoice("t", 1.0, (CHOICE, OTHER), load_template("plain", Path()))
    texts = [task.template.render(question) for question in task.questions]
    encoded = [prompt.tokens for (prompt,) in task.prompts(tokenizer)]
    assert encoded == [tuple(tokenizer.encode(text)) for text in texts]
