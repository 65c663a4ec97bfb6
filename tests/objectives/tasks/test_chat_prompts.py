"""Prompts in the chat template of a tokenizer; transformers is the oracle."""

import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from objectives.tasks.examples import examples
from objectives.tasks.multiple_choice import MultipleChoice
from objectives.tasks.prompts import conversation
from objectives.tasks.prompts.chat import Renderer
from objectives.tasks.prompts.prompt import TemplateError, load_template
from objectives.tasks.retrieval import Retrieval
from objectives.tasks.task import Question
from tests.support.paths import DEMO
from tests.support.questions import CHOICE, PICK

TURNS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    + TURNS
)


@pytest.fixture
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEMO / "models" / "base", trust_remote_code=False)


def saved_template(folder: Path) -> Path:
    path = folder / "t.yaml"
    path.write_text(
        "chat: true\npreamble: Be brief.\nturn: '{{ question }} ({{ cue }})'\n"
        "examples: [{question: '1 + 1?', answer: '2'}]\n"
    )
    return path


@pytest.mark.parametrize("name", ["multiple_choice_instruct", "retrieval_instruct"])
def test_prompts_are_those_of_apply_chat_template(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template = TURNS
    template = load_template(name, Path())
    text = Renderer(template, tokenizer).text(CHOICE)

    messages = [{"role": "user", "content": template.render_turn(CHOICE.text, "")}]
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == expected
    [[prompt]] = MultipleChoice("t", 1.0, (CHOICE,), template).prompts(tokenizer)
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert prompt.tokens == tuple(encoded)
    assert [tokenizer.decode([token]) for token in prompt.options] == ["0", "1", "2"]


def test_examples_and_the_preamble_are_turns_of_their_own(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.chat_template = TURNS
    template = load_template(saved_template(tmp_path).name, tmp_path)
    assert Renderer(template, tokenizer).text(CHOICE) == tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1 + 1? ()"},
            {"role": "assistant", "content": "2"},
            {"role": "user", "content": f"{CHOICE.text} ()"},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )


def test_a_refused_system_turn_begins_the_first_turn_of_the_user(
    tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.chat_template = NO_SYSTEM
    template = load_template(saved_template(tmp_path).name, tmp_path)
    text = Renderer(template, tokenizer).text(CHOICE)
    assert text.startswith("<|user|>\nBe brief.\n\n1 + 1? ()</s>\n<|assistant|>\n2</s>\n<|user|>\n")


@pytest.mark.parametrize(
    ("chat_template", "message"),
    [
        ("{{ raise_exception('never') }}", "fails: never"),
        ("{{ messages[0].content.x.y }}", "fails: "),
        ("{% for x in", "fails: "),
        ("{{ 'x' * 3000000000 }}", "more than 1 GiB of memory"),
        ("{{ 'x' * 5000000 }}", "longer than 4,000,000 characters"),
        ("always the same", "does not contain the question exactly once"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "exactly once"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_an_error(
    tokenizer: Any, chat_template: str, message: str
) -> None:
    tokenizer.chat_template = chat_template
    template = load_template("multiple_choice_instruct", Path())
    with pytest.raises(TemplateError, match=message):
        Renderer(template, tokenizer)


def test_a_chat_template_without_an_end_is_an_error(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "SECONDS", 1.0)
    loop = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    tokenizer.chat_template = loop
    others = set(multiprocessing.active_children())
    conversations = conversation.Conversations(tokenizer)
    with pytest.raises(conversation.ChatTemplateError, match="does not end within 1 s"):
        conversations.text([{"role": "user", "content": "a"}])
    assert set(multiprocessing.active_children()) <= others

    tokenizer.chat_template = TURNS  # the next conversation has a new process
    assert conversations.text([{"role": "user", "content": "a"}]) == "<|user|>\na</s>\n"
    [child] = set(multiprocessing.active_children()) - others
    del conversations
    child.join(10)
    assert child.exitcode is not None


def test_without_a_chat_template_the_prompt_is_plain_text_with_a_cue(tokenizer: Any) -> None:
    assert tokenizer.chat_template is None
    template = load_template("multiple_choice_instruct", Path())
    own = Question(CHOICE.text, "Output", CHOICE.labels, CHOICE.options)
    none = Question(CHOICE.text, "", CHOICE.labels, CHOICE.options)
    renderer = Renderer(template, tokenizer)
    assert renderer.text(own).endswith("and nothing else.\n\nOutput:\n")
    assert renderer.text(none).endswith("and nothing else.\n\nAnswer:\n")
    text = renderer.text(none)
    assert renderer.encode(text) == tokenizer.encode(text)


def test_a_chat_is_learned_from_its_own_end(tokenizer: Any) -> None:
    """A search by gradient learns the labels after the prompt that trials are asked."""
    tokenizer.chat_template = TURNS
    task = Retrieval("t", 1.0, (PICK,), load_template("retrieval_instruct", Path()))
    prompts = task.prompts(tokenizer)
    [example] = examples(task, prompts, tokenizer)
    [tokens] = example.sequences
    assert tokens[: len(prompts[0][0].tokens)] == prompts[0][0].tokens
    [alternative] = example.alternatives
    learned = "".join(tokenizer.decode([target.tokens[0]]) for target in alternative.targets)
    assert learned == ",".join(map(str, PICK.labels))


def test_chat_must_be_true_or_false(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("turn: '{{ question }}'\nchat: maybe\n")
    with pytest.raises(TemplateError, match="chat is 'maybe'; it must be true or false"):
        load_template("t.yaml", tmp_path)


def test_the_default_prompt_is_named_at_the_start(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    from study.config.load import load_config
    from study.setup.tasks import native_tasks

    text = (DEMO / "study.yaml").read_text().replace("    prompt: plain\n", "", 1)
    (tmp_path / "study.yaml").write_text(text.replace("questions/", f"{DEMO}/questions/"))
    with caplog.at_level(logging.INFO, "study"):
        native_tasks(load_config(tmp_path / "study.yaml"))
    messages = [record.message for record in caplog.records if "prompt" in record.message]
    assert messages == [
        "multiple_choice: the prompt is multiple_choice_kdd, whose examples are questions of a "
        "shop; prompt: multiple_choice_instruct has none"
    ]
