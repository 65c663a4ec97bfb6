from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from objectives.errors import TaskError
from objectives.tasks.multiple_choice import MultipleChoice
from objectives.tasks.prompts.prompt import Template, TemplateError, load_template
from objectives.tasks.task import Question

QUESTION = Question("Which?\n0. a\n1. b\n2. c", "Answer", (1,), (0, 1, 2))
ASKED = "{{ question }}"
TURN = 'turn: "{{ question }}\\nAnswer: "\n'


def rendered(turn: str) -> str:
    return Template("t.yaml", turn).render(QUESTION)


def loaded(folder: Path, text: str | bytes) -> Template:
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "t.yaml").write_bytes(data)
    return load_template("t.yaml", folder)


@pytest.mark.parametrize(
    "turn",
    [
        '{{ question }}\n{{ cue or "Answer" }}:',
        '{% for line in question.split("\n") %}{{ loop.index }}/{{ loop.length }} '
        "{{ line|trim|upper }}"
        "{% if not loop.last %}\n{% endif %}{% else %}none{% endfor %}",
        '{{ question.strip().replace("\n", " ")[:5] ~ "..." ~ 1 ~ none }}',
        "{% set n = question|length %}{{ n * 2 + 1 }} {{ n / 3 }} {{ n // 2 }} {{ n % 5 }} "
        "{{ 2 ** 10 }}",
        "{% macro m(a, b=2) %}<{{ a }}{{ b }}>{% endmacro %}{{ m(question) }}{{ m(1, b=3) }}",
        "{% set ns = namespace(n=0) %}{% for i in range(9) %}{% set ns.n = ns.n + i %}{% endfor %}"
        "{{ ns.n }}{{ question }}",
        '{{ "%s-%05d" % (question, 3) }}{{ "{}:{:>5}".format(question, 3) }}'
        "{{ question|indent(4) }}",
        '{{ {"Answer": "x"}[cue] }}{% filter upper %}{{ question }}{% endfilter %}',
        '{% for a, b in [("x", 1), ("y", 2)] %}{{ a }}{{ b }}{% endfor %}{{ question }}',
        "{{ [1, [2]] }} {{ none }} {{ true }} {{ (1, 2) }} {{ question is string }}",
        "{% set b %}x{{ question }}y{% endset %}{{ b|length }}{{ b }}",
        '{{ question.splitlines()|map("trim")|select|join("|") }}{{ 3 in [1, 2, 3] }} '
        "{{ 1 < 2 < 3 }}",
        "{% set items = [] %}{% for l in question.splitlines() %}{% set _ = items.append(l) %}"
        "{% endfor %}"
        '{{ items|join(";") }}',
        "{%- for x in [1, [2, [3]]] recursive %}{% if x is iterable %}{{ loop(x) }}{% else %}"
        "{{ x }}"
        "{% endif %}{% endfor -%} {{ question }} ",
    ],
)
def test_templates_render_like_plain_jinja(turn: str) -> None:
    plain = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    text = plain.from_string(turn).render(question=QUESTION.text, cue=QUESTION.cue)
    assert rendered(turn if "question" in turn else turn + ASKED) == text


DOUBLING = "".join("{% set a = PAIR %}" for _ in range(60))
ENDLESS = [
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}" + "x" * 40_000 + "{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for i in question recursive %}{{ loop(question) }}{% endfor %}",
    '{{ "a" * 10**9 }}',
    "{{ [0] * 10**9 }}",
    "{{ 2 ** (10**8) }}",
    "{{ " + " * ".join(["(2 ** 4000)"] * 3) + " }}",
    '{{ "x"|center(10**9) }}',
    '{{ "x".ljust(10**9) }}',
    '{{ "%1000000000d" % 1 }}',
    '{{ "%*d" % (10**9, 1) }}',
    '{{ "{:>1000000000}".format(1) }}',
    '{{ "{:{}}".format(1, "1000000000") }}',
    '{{ ("x" * 10**6).replace("x", "y" * 10**6) }}',
    '{{ ("\n" * 10**6)|indent("y" * 10**6) }}',
    '{{ ("x" * 10**6).join("y" * 10**6) }}',
    '{{ ("{0}" * 3000).format("y" * 10**6) }}',
    "{% set a = question %}" + DOUBLING.replace("PAIR", "a ~ a") + "{{ a }}",
    "{% set a = question %}" + DOUBLING.replace("PAIR", "a + a") + "{{ a }}",
    "{% set a = [1] %}" + DOUBLING.replace("PAIR", "[a, a]") + "{{ a }}",
    "{% set a = {} %}" + DOUBLING.replace("PAIR", "{1: a, 2: a}") + "{{ a == a }}",
    "{% set n = namespace(a='x') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    '{% set a = "x" * 10**6 %}{% for i in range(9999) %}{% if a == a[1:] %}{% endif %}{% endfor %}',
    "{{ range(99999)|map('string')|map('center', 999)|join }}",
]
FAULTY = {
    "{{ 1 / 0 }}": "division by zero",
    "{{ nothing }}": "'nothing' is undefined",
    "{{ 1 + 'a' }}": "unsupported operand",
    "{% include 'x' %}": "include is not available",
    "{% import 'x' as y %}": "import is not available",
    "{% extends 'x' %}": "extends is not available",
    "{{ question|random }}": "No filter named 'random'",
    "{{ lipsum() }}": "'lipsum' is undefined",
    "{{ question.__class__ }}": "unsafe",
    "{{ question['__class__'] }}": "unsafe",
    "{{ question|attr('__class__') }}": "No filter named 'attr'",
    "{{ '{0.__class__}'.format(question) }}": "unsafe",
    "{{ namespace.__init__.__globals__ }}": "unsafe",
    "{{ question.encode() }}": "unsafe",
    "{{ question.strip }}": "cannot be converted to text",
    "{{ question": "unexpected end of template",
    "{{ " + "(" * 20_000: "nested too deeply",
    "{{ '\ud83d' }}": "surrogates not allowed",
    "x" * 60_000: "more than 50,000",
}


@pytest.mark.parametrize("turn", ENDLESS)
def test_a_template_runs_in_bounded_time_and_size(turn: str) -> None:
    with pytest.raises(TemplateError, match=r"^template t\.yaml(, line 2 of turn)?: "):
        rendered("\n" + turn.replace("\n", "\\n") + ASKED)


@pytest.mark.parametrize("turn", FAULTY)
def test_an_error_in_a_template_is_reported_with_its_name(turn: str) -> None:
    with pytest.raises(TemplateError, match=r"^template t\.yaml.*: ") as caught:
        rendered(ASKED + turn)
    assert FAULTY[turn] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_many_renderings_do_not_exhaust_a_templates_budget() -> None:
    template = Template(
        "t.yaml", "{% for line in question.split('\n') %}{{ line|trim }}\n{% endfor %}"
    )
    texts = {template.render(Question(f"{i}?\n0. a\n1. b", "", (0,), (0, 1))) for i in range(2000)}
    assert len(texts) == 2000


def test_a_template_without_the_question_is_refused(tmp_path: Path) -> None:
    for turn in ('"hello\\n"', "5", "''"):
        with pytest.raises(TemplateError, match="does not contain the question"):
            loaded(tmp_path, f"turn: {turn}").render(QUESTION)
    template = loaded(tmp_path, 'turn: "{{ question[:0] }}Answer:\\n"')
    task = MultipleChoice("t", 1.0, (QUESTION, Question("Other?", "", (0,), (0, 1))), template)
    with pytest.raises(TaskError, match="all 2 questions have the same prompt"):
        task.prompts(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("preamble:\nexamples: ~\nseparator: null\n", ""),
        ("preamble: 5\n", "5"),
        ("preamble: 0x1f\n", "0x1f"),
        ("preamble: 2024-01-01\n", "2024-01-01"),
        ("examples: [{question: one, answer: 1}, {question: two, answer: yes}]\n", None),
        ("\ufeffpreamble: x\r\n", "x"),
    ],
)
def test_scalars_of_a_template_file_are_read_as_text(
    tmp_path: Path, text: str, prompt: str | None
) -> None:
    shots = "one\nAnswer: 1\n\ntwo\nAnswer: yes\n\n" if prompt is None else prompt
    assert loaded(tmp_path, text + TURN).render(QUESTION) == f"{shots}{QUESTION.text}\nAnswer: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preamble: [1]\n" + TURN, "preamble is .* must be a string"),
        ("examples: 5\n" + TURN, "examples must be a list"),
        (
            "examples: [{question: , answer: 1}]\n" + TURN,
            "it must have the strings question and answer",
        ),
        (TURN + TURN, "'turn' is repeated, line 2"),
        ("<<: {a: 1}\n" + TURN, "unknown key '<<'"),
        ("preamble: !!python/object:os.system x\n" + TURN, "cannot read template"),
        ("preamble: !!timestamp x\n" + TURN, "cannot read template"),
        ("[" * 100_000, "nested too deeply"),
        ("k: [" + "a," * 60_000 + "]", "too many values"),
        ("x" * 200_000, "larger than 131,072 bytes"),
        (TURN + "\0", "NUL byte"),
        (b"\xff\xfe", "UTF-16"),
    ],
)
def test_an_unreadable_template_file_is_reported(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(TemplateError, match=message):
        loaded(tmp_path, text)


def test_options_with_the_same_token_are_refused() -> None:
    class Words:
        """A tokenizer without digits."""

        def __call__(self, text: list[str]) -> dict[str, list[list[int]]]:
            return {"input_ids": [self.encode(each) for each in text]}

        def encode(self, text: str) -> list[int]:
            return [0 if c.isdigit() else ord(c) for c in text]

    task = MultipleChoice("t", 1.0, (QUESTION,), load_template("plain", Path()))
    with pytest.raises(TaskError, match="the same token for several of the answers 0, 1, 2"):
        task.prompts(Words())  # type: ignore[arg-type]


_VALUES = st.sampled_from(
    [
        "question",
        "cue",
        "1",
        "10**9",
        "'x'",
        "[1]",
        "(1, 2)",
        "{'a': 1}",
        "range(99999)",
        "none",
        "loop",
    ]
)
_PARTS = st.sampled_from(
    [" * ", " ** ", " ~ ", " + ", " / ", " % ", " in ", " == ", "[", "]", "(", ")"]
)
_FILTERS = st.sampled_from(
    [
        "|center(99999)",
        "|join",
        "|list",
        "|replace('', question)",
        "|indent(999)",
        ".format()",
        ".a",
    ]
)
_BLOCKS = st.sampled_from(
    [
        "{% for i in ",
        "{% if ",
        "{% set a = ",
        " %}",
        "{% endfor %}",
        "{% endif %}",
        "{{ ",
        " }}",
        "{#",
        "\n",
    ]
)


@given(st.lists(_VALUES | _PARTS | _FILTERS | _BLOCKS | st.text(max_size=5), max_size=12))
@settings(max_examples=100, deadline=5000, derandomize=True)
@example(["{{ ", "question", "|replace('', question)", "|replace('', question)", " }}"])
def test_any_turn_yields_a_text_or_a_template_problem(parts: list[str]) -> None:
    text, message = "", "template t.yaml"
    try:
        text = rendered(ASKED + "".join(parts))
    except TemplateError as error:
        message = str(error)
    assert message.startswith("template t.yaml")
    assert len(text.encode()) <= 4 * 4_000_000


@given(st.text(alphabet="turn:exampls \n-{}[]&*!|'\"{%}", max_size=60) | st.binary(max_size=60))
@settings(max_examples=100, deadline=5000, derandomize=True)
def test_any_template_file_yields_a_template_or_a_template_problem(
    tmp_path_factory: pytest.TempPathFactory, data: str | bytes
) -> None:
    message = "t.yaml"
    try:
        loaded(tmp_path_factory.getbasetemp(), data).render(QUESTION)
    except TemplateError as error:
        message = str(error)
    assert "t.yaml" in message
