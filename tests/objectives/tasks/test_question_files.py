import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.tasks import multiple_choice, retrieval
from objectives.tasks.multiple_choice import first_digit
from objectives.tasks.questions.options import Options
from objectives.tasks.questions.question_files import (
    BadRow,
    QuestionError,
    read_questions,
    split_cue,
)
from objectives.tasks.questions.split import split
from objectives.tasks.retrieval import parse_answer
from objectives.tasks.task import Question

CHOICE = "Which is red?\n0. grass\n1. blood\n2. sky\n3. snow"
LIST = "Pick three.\n1. a\n2. b\n3. c\n4. d\n5. e"


def choice(label: Any, text: str = CHOICE) -> dict[str, Any]:
    return {"input_field": text, "output_field": label, "task_type": "multiple-choice"}


def picked(label: Any, text: str = LIST) -> dict[str, Any]:
    return {"input_field": text, "output_field": label, "task_type": "retrieval"}


def write(path: Path, rows: list[Any], as_list: bool = False) -> Path:
    text = json.dumps(rows) if as_list else "\n".join(map(json.dumps, rows))
    path.write_text(text)
    return path


@pytest.mark.parametrize("label", [1, "1", "1. blood", " 1", [1], 1.0, "1: because"])
def test_all_forms_of_choice_labels_are_read(label: Any) -> None:
    assert multiple_choice.parse_row(choice(label)).labels == (1,)


@pytest.mark.parametrize(
    "label", ["blood", "", None, True, [1, 2], "12", 4, -1, {}, 1.5, "9" * 5000]
)
def test_a_label_that_is_not_an_option_is_refused(label: Any) -> None:
    with pytest.raises(BadRow):
        multiple_choice.parse_row(choice(label))


@pytest.mark.parametrize("label", [[1, 4, 5], "1,4,5", "[5, 1, 4]", "1 4 5", ["1", "4", "5"]])
def test_all_forms_of_retrieval_labels_are_read(label: Any) -> None:
    assert retrieval.parse_row(picked(label)).labels == (1, 4, 5)


@pytest.mark.parametrize(
    "label",
    [[0, 1], "1,9", [], "one", [1, 1], {"1": 1}, True, "1.5", [1.9, 2.7], [True], [float("inf")]],
)
def test_a_bad_retrieval_label_is_refused(label: Any) -> None:
    with pytest.raises(BadRow):
        retrieval.parse_row(picked(label))


def test_a_single_label_and_candidates_from_0_are_accepted() -> None:
    text = "Pick.\n0) a\n1) b\n2) c"
    assert retrieval.parse_row(picked(0, text)) == Question(text, "", (0,), (0, 1, 2))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (CHOICE, (0, 1, 2, 3)),
        ("Rate it.\n1. bad\n2. so\n3. fine\n4. good\n5. great", (1, 2, 3, 4, 5)),
        ("Does it fit?\n0. no\n1. yes", (0, 1)),
        ("1. wash\n2. dry\nWhat is this?\n0. a recipe\n1. advice\n2. a song", (0, 1, 2)),
        ("How happy is the customer, from 1 to 5?", (1, 2, 3, 4, 5)),
        ("Rate the fit on a scale of 0-2", (0, 1, 2)),
        ("No list at all", ()),
    ],
)
def test_options_are_read_from_the_prompt(text: str, options: tuple[int, ...]) -> None:
    assert Options(text).numbers == options


@pytest.mark.parametrize("following", ["A. mix\nB. bake", "- mix\n- bake"])
def test_numbered_steps_before_a_list_of_another_kind_are_no_options(following: str) -> None:
    options = Options(f"Recipe:\n1. mix\n2. bake\n3. eat\nWhich step comes first?\n{following}")
    assert options.numbers == ()
    assert (options.letters == "AB") != options.unknown


@pytest.mark.parametrize(
    ("ending", "cue"),
    [
        ("\nAnswer: ", "Answer"),
        ("\nOutput:", "Output"),
        ("\n\nAnswer:\n", "Answer"),
        (" Answer: ", "Answer"),
        ("\nYour choice: ", "Your choice"),
        ("", ""),
        ("\n", ""),
    ],
)
def test_the_cue_is_separated_from_the_question(ending: str, cue: str) -> None:
    assert split_cue(CHOICE + ending) == (CHOICE, cue)


@given(
    st.text(alphabet="abc ?,é\n", min_size=1).filter(str.strip),
    st.integers(2, 12),
    st.sampled_from([0, 1]),
    st.sampled_from(["\nAnswer: ", "\nOutput: ", "\nReply:", ""]),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_any_written_question_is_read_back(
    body: str, count: int, first: int, ending: str, data: st.DataObject
) -> None:
    options = range(first, first + count)
    text = body.strip() + "".join(f"\n{i}. thing" for i in options)
    labels = data.draw(st.lists(st.sampled_from(options), min_size=1, max_size=3, unique=True))
    written = data.draw(st.sampled_from([labels, ",".join(map(str, labels))]))
    question = retrieval.parse_row(picked(written, text + ending))
    assert (question.text, question.options) == (text, tuple(options))
    assert question.labels == tuple(sorted(labels))
    assert question.cue == ending.strip().removesuffix(":")
    row = choice(f"{labels[0]}. thing", text + ending)
    if options[-1] > 9:
        with pytest.raises(BadRow, match="has more than one digit"):
            multiple_choice.parse_row(row)
        return
    single = multiple_choice.parse_row(row)
    assert single.labels == (labels[0],)
    assert single.id == question.id


@pytest.mark.parametrize("as_list", [True, False])
def test_order_and_duplicates_do_not_matter(tmp_path: Path, as_list: bool) -> None:
    rows = [choice(1, CHOICE.replace("red", colour)) for colour in ("red", "dark", "warm")]
    one = read_questions(
        write(tmp_path / "a", rows, as_list), "multiple_choice", multiple_choice.parse_row
    )
    two = read_questions(
        write(tmp_path / "b", [*rows[::-1], rows[0]]), "multiple_choice", multiple_choice.parse_row
    )
    assert one == two
    assert len(one) == 3


def test_bad_rows_are_refused_with_their_line_or_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [choice(1), choice(9, "Other\n0. a\n1. b"), {"input_field": " ", "output_field": 1}]
    path = write(tmp_path / "q.jsonl", rows)
    with pytest.raises(QuestionError, match=r"q\.jsonl:2: label 9 .*0 to 1 \(2 such rows\)"):
        read_questions(path, "multiple_choice", multiple_choice.parse_row)
    questions = read_questions(path, "multiple_choice", multiple_choice.parse_row, "skip")
    assert len(questions) == 1
    assert "left out 2 bad rows" in caplog.text


def test_the_same_question_with_two_labels_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [choice(1), choice(2), choice(0, "Other?\n0. a\n1. b")])
    with pytest.raises(QuestionError, match=r"q\.jsonl:2: the same question as .*q\.jsonl:1"):
        read_questions(path, "multiple_choice", multiple_choice.parse_row)
    left = read_questions(path, "multiple_choice", multiple_choice.parse_row, "skip")
    assert [q.text for q in left] == ["Other?\n0. a\n1. b"]


def test_a_row_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [picked([1, 2, 3])])
    with pytest.raises(QuestionError, match="task_type is retrieval"):
        read_questions(path, "multiple_choice", multiple_choice.parse_row)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no questions"),
        ("[]", "has no questions"),
        ("{broken", "q.jsonl:1: not JSON"),
        ("[1,", "not JSON"),
        ('"text"', "is not an object"),
    ],
)
def test_a_file_without_questions_is_reported(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    with pytest.raises(QuestionError, match=message):
        read_questions(path, "multiple_choice", multiple_choice.parse_row)


def test_a_missing_or_binary_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match="does not exist"):
        read_questions(tmp_path / "none", "retrieval", retrieval.parse_row)
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QuestionError, match="cannot read"):
        read_questions(tmp_path / "b", "retrieval", retrieval.parse_row)


@given(st.sets(st.text(min_size=1), min_size=2, max_size=40), st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_the_split_of_a_question_does_not_depend_on_other_questions(
    texts: set[str], share: float
) -> None:
    questions = [Question(text, "", (0,), (0, 1)) for text in sorted(texts)]
    kept, held_out_questions = split(questions, share)
    assert {*kept, *held_out_questions} == set(questions)
    fewer_kept, fewer_held = split(questions[::-2], share)
    assert set(fewer_kept) <= set(kept)
    assert set(fewer_held) <= set(held_out_questions)


def test_about_the_requested_fraction_is_held_out() -> None:
    questions = [Question(f"question {i}", "", (0,), (0, 1)) for i in range(4000)]
    _, held_out_questions = split(questions, 0.25)
    assert len(held_out_questions) == pytest.approx(1000, abs=5 * (4000 * 0.25 * 0.75) ** 0.5)


@pytest.mark.parametrize(
    ("text", "digit"), [("2", 2), (" 3 because", 3), ("", None), ("b", None), ("-1", None)]
)
def test_the_official_choice_parser_takes_the_first_character(text: str, digit: int | None) -> None:
    assert first_digit(text) == digit


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1,4,9", [1, 4, 9]),
        (" 3, 5, 10", [3, 5, 10]),
        ("Sure: 1, 2 and 3", [1]),
        ("7,7,7", [7, 7, 7]),
        ("none", []),
        ("1,,2", [1, 2]),
        ("1. 2. 3", []),
    ],
)
def test_the_official_list_parser_keeps_digits_commas_and_spaces(
    text: str, numbers: list[int]
) -> None:
    assert parse_answer(text) == numbers


@pytest.mark.parametrize("parse", [multiple_choice.parse_row, retrieval.parse_row])
def test_an_empty_field_is_refused(parse: Callable[[Any], Question]) -> None:
    for row in ({"input_field": "", "output_field": 1}, {"input_field": "a", "output_field": None}):
        with pytest.raises(BadRow, match="is empty"):
            parse(row)
    for row in ({"output_field": 1}, {"input_field": "a"}):
        with pytest.raises(BadRow, match=r"has no (in|out)put_field; its fields are"):
            parse(row)
    with pytest.raises(BadRow, match="input_field is 1; it must be a string"):
        parse({"input_field": 1, "output_field": 1})


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Which year?\n1999. a\n2000. b\nAnswer:", 1),
        ("Pick?\n0. a\n2. b\n3. c\nAnswer:", 2),
        ("Pick?\n5. a\n6. b\n7. c\nAnswer:", 6),
        ("Pick?\n1. a\n1. b\n2. c\nAnswer:", 1),
        ("Pick?\n2. a\n1. b\n2. c\n0. d\nAnswer:", 1),
        ("I paid $1.\n2. b\n3. c\nAnswer:", 2),
        ("Pick: 2. a 1. b 2. c 0. d", 1),
        ("Pick: 2) a 1) b 0) c", 1),
    ],
)
def test_a_list_with_gaps_repeated_or_other_numbers_is_refused(text: str, label: int) -> None:
    with pytest.raises(BadRow):
        multiple_choice.parse_row({"input_field": text, "output_field": label})


def test_an_earlier_list_does_not_count() -> None:
    text = "1. x\n2. y\nWhich?\n1. a\n2. b\n3. c\nAnswer:"
    question = multiple_choice.parse_row({"input_field": text, "output_field": 3})
    assert question.options == (1, 2, 3)


@pytest.mark.parametrize("joint", [" ", "\n"])
@pytest.mark.parametrize("style", ["{}. ", "{}) ", "({}) ", "Option {}: "])
@pytest.mark.parametrize(
    ("marks", "label"),
    [("122", 1), ("1223", 1), ("1233", 2), ("0112", 0), ("112", 1), ("ABB", "A")],
)
def test_a_list_with_two_options_of_one_label_is_refused_with_its_line(
    tmp_path: Path, joint: str, style: str, marks: str, label: int | str
) -> None:
    text = f"Which?{joint}{joint.join(style.format(m) + 'thing' for m in marks)}"
    row = {"input_field": text, "output_field": label}
    path = write(tmp_path / "q.jsonl", [choice(1), row])
    with pytest.raises(
        QuestionError, match=r"q\.jsonl:2: (two of its options are|its list of opt)"
    ):
        read_questions(path, "multiple_choice", multiple_choice.parse_row)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("0. a\n1. b\nWhich?\n1. x\n2. y\n3. z", (1, 2, 3)),
        ("1. wash\nWhich?\n1. x\n2. y", (1, 2)),
        ("0. a\n1. b\n2. c\n(1) see the note", (0, 1, 2)),
        ("Pack of 2. 1. red 2. blue 3. green", (1, 2, 3)),
        ("Step 1: mix it. Which? 1) soap 2) oil", (1, 2)),
        ("Which word?\n1. and\n2. or\n3. but", (1, 2, 3)),
    ],
)
def test_other_numbers_than_those_of_the_list_are_not_repeated(
    text: str, options: tuple[int, ...]
) -> None:
    assert multiple_choice.parse_row(choice(1, text)).options == options


def test_a_number_within_a_sentence_is_no_option() -> None:
    assert Options("1. a\n2. b\n3. c\nas explained in\n1. and also 3").numbers == (1, 2, 3)
    for text in ("It follows from\n1. and also 3\nof the list.", "I bought 1 and 3 apples."):
        assert multiple_choice.parse_row(choice(0, text)).options == (0, 1, 2, 3)
    for text in (
        "Compare 1. and 2. of it.",
        "Compare A. and B. of it.",
        "See 1) and also 2) there",
    ):
        assert Options(text).numbers == ()
        assert Options(text).letters == ""
        with pytest.raises(BadRow):
            multiple_choice.parse_row(choice(1, text))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Rate it from 0 to 10", tuple(range(11))),
        ("How happy is the customer, from 1 to 10?", tuple(range(1, 11))),
        ("Rate it on a scale of 1-10.", tuple(range(1, 11))),
        ("A score between 1 and 5", (1, 2, 3, 4, 5)),
        ("For ages 3 to 12, weighs 2.0 to 4 kg", ()),
    ],
)
def test_scales_are_read_from_the_prompt(text: str, options: tuple[int, ...]) -> None:
    assert Options(text).numbers == options
    assert not Options(text).unknown


@pytest.mark.parametrize("label", [0, 3, 7])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Rate it from 0 to 10", "option 10 has more than one digit|not among the options 0 to 10"),
        ("Rate it from 2 to 6", "list of options is not recognized"),
        ("Its score, from 0 to 100", "list of options is not recognized"),
    ],
)
def test_a_scale_is_never_replaced_by_the_options_0_to_3(
    text: str, reason: str, label: int
) -> None:
    with pytest.raises(BadRow, match=reason):
        multiple_choice.parse_row(choice(label, text))


def test_a_label_outside_of_the_default_options_is_explained() -> None:
    with pytest.raises(BadRow, match="0 to 3, which a question without a list or a scale has"):
        multiple_choice.parse_row(choice(7, "Is it red?"))
