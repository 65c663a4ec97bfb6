import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from objectives.engines.engine import Answer
from objectives.tasks import multiple_choice, retrieval
from objectives.tasks.multiple_choice import MultipleChoice, first_letter
from objectives.tasks.prompts.prompt import load_template
from objectives.tasks.questions.fields import Fields
from objectives.tasks.questions.labels import label_in
from objectives.tasks.questions.listed_options import option_columns
from objectives.tasks.questions.question_files import BadRow, QuestionError, read_questions
from objectives.tasks.questions.rows import MAX_BYTES, MAX_ROW, read_rows
from objectives.tasks.task import Question

LIST = "Which?\n0. grass\n1. 500 ml\n2. soap and 2 towels\n3. 5"
COLOURS = ("red", "blue", "green", "black", "white")


class Characters:
    """A tokenizer whose tokens are characters."""

    def __call__(self, text: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [self.encode(each) for each in text]}

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(map(chr, tokens))


def asked(options: str, label: Any) -> Question:
    text = f"Which colour?\n{options}\nAnswer:"
    return multiple_choice.parse_row({"input_field": text, "output_field": label})


def listed(style: str, marks: Any = "12345", joint: str = "\n") -> str:
    pairs = zip(marks, COLOURS, strict=False)
    return joint.join(style.format(mark) + colour for mark, colour in pairs)


def read(path: Path, on_bad: Any = "refuse") -> tuple[Question, ...]:
    return read_questions(path, "multiple_choice", multiple_choice.parse_row, on_bad)


ROW = {"input_field": LIST, "output_field": 1}


@pytest.mark.parametrize(
    ("label", "number"),
    [
        ("2. soap", 2),
        ("0) oil", 0),
        ("3: it fits", 3),
        ([2], 2),
        (1.0, 1),
        ("1.0", 1),
        ("1. 500 ml", 1),
        ("2. soap and 2 towels", 2),
        ("3. 5", 3),
        ("2 soap", 2),
        ("(1)", 1),
        ("[1] red", 1),
        ("①", 1),
        ("1 - because", 1),
        ("1: because\nit has 2 lids", 1),
    ],
)
def test_a_label_that_begins_with_a_single_number_is_read(label: Any, number: int) -> None:
    assert label_in(label, LIST) == number


SEVERAL = (
    "1,2|1 or 2|1 2|1\n2|1 and 2|1&2|1;2|1/2|2-3|1 to 3|1、2|1 both 2|1) and 2)|1. soap 2. oil"
)
SEVERAL += "|1. 2. 3.|1) both 1 and 2|①②|1 or both|A or B|A, B|A/B|AB|a soap|[1, 2]"
NONE = "1.5|1:2|12th|1st|-1|+1|1%|1e0|0x1|1_0|1½|soap"
OTHER = (1.5, [1, 2], True, None, [[1]], {}, float("nan"), float("inf"))


@pytest.mark.parametrize("label", [*SEVERAL.split("|"), *NONE.split("|"), *OTHER])
def test_an_ambiguous_label_is_refused(label: Any) -> None:
    with pytest.raises(BadRow, match="does not begin with the number or letter of one option"):
        label_in(label, LIST)


BRACKETS = ("({}) ", "[{}] ", "（{}）", "【{}】", "({})")
MARKS = ("{}、", "{}) ", "{}. ", "{}: ", "{}．", "- {}. ", "**{}.** ", "{})", "\t{})", "{}.\n")


@pytest.mark.parametrize("style", [*BRACKETS, *MARKS, "Option {}: ", "{} = "])
def test_numbered_options_are_recognized(style: str) -> None:
    assert asked(listed(style), 5).options == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("style", ["{}. ", "({}) ", "{}) ", "{}: ", "{}、", "({})"])
def test_options_within_a_line_are_recognized(style: str) -> None:
    assert asked("Pack of 2. " + listed(style, joint=" "), 5).options == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("marks", ["①②③④⑤", "⑴⑵⑶⑷⑸", "❶❷❸❹❺"])
def test_single_character_numbers_are_recognized(marks: str) -> None:
    assert asked(listed("{} ", marks), 5).options == (1, 2, 3, 4, 5)
    assert asked(listed("{}", marks, " "), marks[1]).labels == (2,)


def test_shuffled_options_and_options_before_another_number_are_recognized() -> None:
    assert asked("1. a\n2. b\n3. c\n0. d", 0).options == (0, 1, 2, 3)
    assert asked("0. a\n1. b\n2. c\n12: see above", 2).options == (0, 1, 2)
    assert asked("1. wash\n2. dry\nWhich?\n(0) a\n(1) b\n(2) c", 0).options == (0, 1, 2)


@pytest.mark.parametrize(
    "options",
    [listed(style) for style in ("{} - ", "{} ", "#{} ", "<{}> ", "| {} | ", "{}/ ", "Option {} ")]
    + [
        listed("{}. ", ["I", "II", "III", "IV"]),
        listed("{}) ", "абвгд"),
        listed("{}、", "一二三四"),
    ]
    + [listed("- ", "ab"), listed("• ", "ab"), listed("{}. ", "1111"), "Options: red, blue, green"]
    + [listed("{}.", joint=" "), listed("({})", joint="")],
)
def test_an_unrecognized_list_is_refused(options: str) -> None:
    for label in (1, 5):
        with pytest.raises(BadRow, match="list of options is not recognized"):
            asked(options, label)


def test_a_text_without_a_list_has_the_options_0_to_3() -> None:
    assert asked("Is it, e.g. 130 g/m2, a 5 x 3 pack?", 3).options == (0, 1, 2, 3)


@pytest.mark.parametrize("style", ["{}) ", "{}. ", "({}) ", "{}: ", "[{}] ", "Option {}: "])
@pytest.mark.parametrize(
    ("marks", "label"), [("ABCDE", "C"), ("abcde", "C"), ("ABCDE", "(c) green")]
)
def test_lettered_options_have_letters_as_labels(style: str, marks: str, label: str) -> None:
    question = asked(listed(style, marks), label)
    assert (question.labels, question.options) == ((2,), (0, 1, 2, 3, 4))
    assert question.answer(2) == marks[2]
    with pytest.raises(BadRow, match=f"lettered {marks[0]} to {marks[4]}"):
        asked(listed(style, marks), 2)
    with pytest.raises(BadRow, match="not among the options"):
        asked(listed(style, marks), "F")


def test_a_letter_without_lettered_options_is_refused() -> None:
    for options in ("1. red\n2. blue", "red or blue", "A red\nB blue"):
        with pytest.raises(BadRow, match="no lettered list"):
            asked(options, "B")


def test_lettered_options_are_answered_and_scored_by_letter() -> None:
    question = asked("A. red\nB. blue\nC. green", "B")
    task = MultipleChoice("t", 1.0, (question,), load_template("plain", Path()))
    [[prompt]] = task.prompts(Characters())
    assert prompt.options == tuple(map(ord, "ABC"))
    for text, score in [("B", 1.0), (" b", 1.0), ("A", 0.0), ("1", 0.0), ("", 0.0)]:
        answer = Answer(tuple(map(ord, text)), (0.0, 0.0, 0.0), True)
        assert task.score(question, [prompt], [answer], Characters()) == score
    assert [first_letter(text) for text in ("(B) blue", "Blue", "2")] == ["b", None, None]


@pytest.mark.parametrize(
    "row",
    [
        {"input_field": LIST, "target_field": 1},
        {"instruction": "Which?", "input": LIST.removeprefix("Which?\n"), "output": "1"},
        {"instruction": LIST, "input": "", "output": 1},
        {"instruction": LIST, "output": 1},
    ],
)
def test_fields_of_other_known_formats_are_read(row: dict[str, Any]) -> None:
    assert multiple_choice.parse_row(row) == multiple_choice.parse_row(ROW)


def test_unknown_fields_are_reported_and_can_be_mapped() -> None:
    row = {"question": LIST, "answer": 1}
    with pytest.raises(BadRow, match=r"its fields are question, answer; .*fields: \{question:"):
        multiple_choice.parse_row(row)
    fields = Fields(("question",), "answer")
    assert multiple_choice.parse_row(row, fields) == multiple_choice.parse_row(ROW)
    with pytest.raises(BadRow, match="has no question"):
        multiple_choice.parse_row(ROW, fields)
    two = Fields(("intro", "list"), "key")
    parts = dict(zip(("intro", "list"), LIST.split("\n", 1), strict=True))
    assert multiple_choice.parse_row(parts | {"key": 1}, two) == multiple_choice.parse_row(ROW)
    with pytest.raises(BadRow, match="has no intro"):
        multiple_choice.parse_row({"list": LIST, "key": 1}, two)


@pytest.mark.parametrize(
    ("answer", "first", "written", "labels"),
    [
        (1, 0, "0. red\n1. blue", (1,)),
        (1, 1, "1. red\n2. blue", (1,)),
        ("blue", None, "0. red\n1. blue", (1,)),
        ("B", None, "A. red\nB. blue", (1,)),
    ],
)
def test_options_in_a_field_are_appended_to_the_question(
    answer: Any, first: int | None, written: str, labels: tuple[int, ...]
) -> None:
    fields = Fields(("q",), "a", "choices", first)
    question = multiple_choice.parse_row(
        {"q": "Which?", "choices": ["red", "blue"], "a": answer}, fields
    )
    assert question.text == f"Which?\n{written}"
    assert question.labels == labels


def test_options_in_an_unmapped_field_are_refused() -> None:
    row = {"input_field": "Which?", "choices": ["red", "blue"], "output_field": 1}
    with pytest.raises(BadRow, match="seem to be in choices; "):
        multiple_choice.parse_row(row)
    other = {"input_field": "Which?", "opts": ["red", "blue"], "output_field": 1}
    with pytest.raises(BadRow, match="seem to be in opts; "):
        multiple_choice.parse_row(other)
    fields = Fields(("input_field",), "output_field", "choices")
    with pytest.raises(BadRow, match=r"set fields\.first"):
        multiple_choice.parse_row(row, fields)
    with pytest.raises(BadRow, match="its text"):
        multiple_choice.parse_row(row | {"choices": ["2", "1"], "output_field": "1"}, fields)
    for choices in ("red", ["red"], ["red", 1], {"text": ["red", "blue"]}, {"a": "red"}, None):
        with pytest.raises(BadRow, match="is not a list of 2 to 26 texts"):
            multiple_choice.parse_row(row | {"choices": choices}, fields)


COLUMNS = {"q": "Which?", "A": "red", "B": "blue", "C": "green", "D": ""}
NAMES = ("A", "B", "C", "D")


@pytest.mark.parametrize(
    ("changes", "options", "first", "written", "label"),
    [
        ({"a": "B"}, NAMES, None, "A. red\nB. blue\nC. green", 1),
        ({"a": "b", "C": None}, NAMES, None, "A. red\nB. blue", 1),
        ({"a": "green"}, NAMES, None, "A. red\nB. blue\nC. green", 2),
        ({"a": 1}, NAMES, 0, "0. red\n1. blue\n2. green", 1),
        ({"a": 3}, NAMES, 1, "1. red\n2. blue\n3. green", 3),
        ({"a": "option2"}, ("option1", "option2"), None, "0. red\n1. blue", 1),
        ({"a": "2"}, ("option1", "option2"), 1, "1. red\n2. blue", 2),
        ({"a": "B"}, "arc", None, "A. red\nB. blue", 1),
        (
            {"a": "2", "arc": {"text": ["red", "blue"], "label": ["1", "2"]}},
            "arc",
            1,
            "1. red\n2. blue",
            2,
        ),
        ({"a": "y", "arc": {"x": "red", "y": "blue"}}, "arc", None, "0. red\n1. blue", 1),
    ],
)
def test_options_may_have_a_field_each_or_be_named(
    changes: dict[str, Any], options: Any, first: int | None, written: str, label: int
) -> None:
    arc = {"text": ["red", "blue"], "label": ["A", "B"]}
    row = COLUMNS | {"option1": "red", "option2": "blue", "arc": arc} | changes
    question = multiple_choice.parse_row(row, Fields(("q",), "a", options, first))
    assert question.text == f"Which?\n{written}"
    assert question.labels == (label,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": "E"}, "label E is not among the options A to C"),
        ({"a": 1}, r"set fields\.first"),
        ({"a": "B", "B": ""}, "is not a list of 2 to 26 texts"),
        ({"a": "B", "B": 7}, "is not a list of 2 to 26 texts"),
        ({"a": "B", "B": "", "C": ""}, "is not a list of 2 to 26 texts"),
        ({"a": "B", "A": "B"}, "the name of one option and the text of another"),
    ],
)
def test_an_option_that_is_missing_or_ambiguous_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRow, match=message):
        multiple_choice.parse_row(COLUMNS | changes, Fields(("q",), "a", NAMES))


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["id", "B", "A", "question"], ("A", "B")),
        (["option_a", "option_b", "option_c"], ("option_a", "option_b", "option_c")),
        (["option2", "option1"], ("option1", "option2")),
        (["opa", "opb"], ("opa", "opb")),
        (["choice 0", "choice 1"], ("choice 0", "choice 1")),
        (["q", "A", "B", "D"], ("A", "B")),
        (["A", "C"], ()),
        (["option2", "option3"], ()),
        (["a"], ()),
        (["q1", "q2"], ()),
    ],
)
def test_fields_with_an_option_each_are_recognized_by_their_names(
    names: list[str], columns: tuple[str, ...]
) -> None:
    assert option_columns(dict.fromkeys(names, "text")) == columns
    assert option_columns(dict.fromkeys(names, 1)) == ()


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "/dev/zero", "/dev/null", "a\0b"])
def test_a_path_that_is_not_a_regular_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            monkeypatch.chdir(tmp_path)  # a socket's path must be short
            server.bind("socket")
    with pytest.raises(QuestionError, match="cannot read"):
        read(path)


GOOD = json.dumps(ROW)
SPREAD = json.dumps(ROW, indent=2)


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        f"\ufeff{GOOD}",
        f"{GOOD}\r\n\r\n",
        f"\n\n{GOOD}\r",
        SPREAD,
        f"[{GOOD}]",
        f"\ufeff[\n{SPREAD}\n]\n",
    ],
)
def test_questions_are_read_from_every_supported_file_layout(tmp_path: Path, data: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(data.encode())
    assert read(path) == (multiple_choice.parse_row(ROW),)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "Git LFS pointer"),
        (b"PAR1\x15\x04", "a Parquet file"),
        (b"\x1f\x8b\x08", "compressed with gzip"),
        (GOOD.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (GOOD.encode("utf-16-le"), r"q\.jsonl:1: cannot read a NUL byte"),
        (GOOD.encode() + b"\n\xe9", r"q\.jsonl:2: cannot read byte 0xe9 as UTF-8"),
        (b"question,answer\nWhich?,1\n", r"q\.jsonl:1: not JSON: .*not CSV"),
        (b"[" * 100_000, r"q\.jsonl:1, row 1: .*nested too deeply"),
        (b'{"a":' * 100_000, r"q\.jsonl:1: .*nested too deeply"),
        (GOOD.encode() + b"\n{", r"q\.jsonl:2: not JSON"),
        (
            b"[\n" + GOOD.encode() + b"\n" + GOOD.encode() + b"]",
            r"q\.jsonl:2, row 1: not JSON: the row is not followed by a comma",
        ),
        (b"[\n" + GOOD.encode() + b",\n]", r"q\.jsonl:3, row 2: not JSON"),
        (b"[" + GOOD.encode() + b"]\n[]", r"q\.jsonl:2: not JSON: text after the list"),
        (b"9" * 5000, r"q\.jsonl:1: not JSON"),
        (b'"' + b"a" * (MAX_ROW + 1) + b'"', "more than 4,194,304"),
        (b'["' + b"a" * (MAX_ROW * 2) + b'"]', "more than 4,194,304"),
        (
            b'{"input_field": "a", "input_field": "b", "output_field": 1}',
            "'input_field' is repeated",
        ),
        (b'{"input_field": "\\ud83d a", "output_field": 1}', r"q\.jsonl:1: .*invalid character"),
        (b'{"input_field": "\\u0000 a", "output_field": 1}', r"q\.jsonl:1: .*NUL"),
        (b'{"data": [1]}', r"its fields are data"),
        (b"", "has no questions"),
        (b"\xef\xbb\xbf", "has no questions"),
    ],
)
def test_an_invalid_question_file_is_reported_with_the_line(
    tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(data)
    with pytest.raises(QuestionError, match=message):
        read(path)


def test_a_huge_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(QuestionError, match=f"larger than {MAX_BYTES:,} bytes"):
        read(path)


def test_a_question_has_the_location_of_its_row(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text(f"[\n{json.dumps({'input_field': 'Other?', 'output_field': 0})},\n{GOOD}\n]")
    places = {question.text: question.location for question in read(path)}
    assert places == {"Other?": f"{path}:2, row 1", LIST: f"{path}:3, row 2"}


_TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["1,2", "1 or 2", "2. soap", "B) x", "①", "\ud83d", "\0", LIST, "Q?\nA. x\nB. y"]
    ),
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _TEXTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=8,
)
_NAMES = st.sampled_from(
    ["input_field", "output_field", "target_field", "instruction", "output", "task_type", "choices"]
)
_ROWS = st.dictionaries(_NAMES, _TEXTS | _JSON, max_size=5)


@given(st.lists(_ROWS | _JSON, max_size=4), st.booleans(), st.sampled_from(["refuse", "skip"]))
@settings(max_examples=80, deadline=5000, derandomize=True)
@example([ROW, {"input_field": "\ud83d", "output_field": 1}], False, "skip")
def test_any_rows_yield_questions_or_a_question_error(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], as_list: bool, on_bad: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    path.write_text(json.dumps(rows) if as_list else "\n".join(map(json.dumps, rows)))
    for kind, parse in (
        ("multiple_choice", multiple_choice.parse_row),
        ("retrieval", retrieval.parse_row),
    ):
        try:
            questions, message = read_questions(path, kind, parse, on_bad), str(path)
        except QuestionError as error:
            questions, message = (), str(error)
        assert str(path) in message
        assert len(message) < 1000
        for question in questions:
            assert set(question.labels) <= set(question.options)
            assert question.text.encode()
            assert question.location.startswith(f"{path}:")


@given(
    st.binary(max_size=200)
    | st.text(alphabet='{}[]",:\\n1eE\ufeff \n\r', max_size=60).map(str.encode)
)
@settings(max_examples=80, deadline=5000, derandomize=True)
def test_any_bytes_yield_rows_or_a_question_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    path.write_bytes(data)
    try:
        messages = [place for place, _ in read_rows(path)]
    except QuestionError as error:
        messages = [str(error)]
    assert all(str(path) in message for message in messages)
