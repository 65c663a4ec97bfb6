"""Study files with any content: each is a study or a ConfigError, within a short time."""

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from study.cli.faults import MAX_LINES, format_message
from study.config.errors import ConfigError
from study.config.load import load_config
from study.config.study import MAX_TRIALS, StudyConfig
from study.config.yaml_file import MAX_FILE_SIZE, YamlError, parse_yaml

STUDY = """
genome: {models: [a, b], base_model: base, merge_method: task_arithmetic}
tasks: [&one {name: mc, kind: multiple_choice, data: q.jsonl}]
"""
SECONDS = 5.0


def load(text: str | bytes, folder: Path | None = None) -> StudyConfig:
    """Return the study of a file with this text."""
    with tempfile.TemporaryDirectory() as temporary:
        path = (folder or Path(temporary)) / "study.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path)


def refused(text: str | bytes) -> str:
    """Return the message for a file that is not a study."""
    with pytest.raises(ConfigError) as caught:
        load(text)
    message = format_message(f"error: {caught.value}")
    assert len(message.split("\n")) <= MAX_LINES
    return message


def check_handled(text: bytes) -> None:
    """Check that a file is a study or raises ConfigError."""
    with contextlib.suppress(ConfigError):
        load(text)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("study: {trials: 2024-13-45}", "study.trials: must be a whole number"),
        ("study: {trials: 1:30}", "line 4: 1:30 means different numbers in YAML 1.1"),
        ("study: {trials: 010}", "line 4: 010 means different numbers"),
        ("study: {sigma: 0:30.5}", "is not a decimal number"),
        ("study: {trials: " + "9" * 5000 + "}", "line 4: a number has 5000 characters"),
        ("study: {trials: " + "[" * 3000, "nested more than 50 levels deep"),
        ("study: {trials: 3, trials: 4}", "line 4: key trials is listed twice"),
        ("study: {<<: 3}", "expected a mapping"),
        ("study: {[1]: 3}", "a key must be a text"),
        ("study: {? {a: 1} : 3}", "a key must be a text"),
        ("study: !!python/object/apply:os.system [ls]", "the tag !!python/object"),
        ("study: !!set {trials}", "the tag !!set"),
        ("study: {trials: !!int x}", "x is not a whole number"),
        ("study: &a [*a]", "an alias refers to a value that contains it"),
        ('study: {name: "a\\x1b[2J"}', "U+001B"),
        ('study: {name: "\\ud800"}', "U+D800"),
        ("study:\n\ttrials: 3", "is not YAML: line 5"),
        ("---\nstudy: {}", "expected a single document"),
        ("study: {sigma: .nan}", "must be a finite number"),
        ("study: {trials: 1.0e+12}", "all trials of a study are read together"),
        ("study: {population: 100000000}", "must be at most 100000, not 100000000"),
        ("study: {storage: [postgresql://u:Hidden77@h/d]}", "study.storage: must be a text"),
        ("study: []", "study: must be a mapping"),
        ("limit: 99999999999999999999", "must be at most"),
        ("engine: {deadline: 1.0e+300}", "must be at most 1000000000, not 1e+300"),
        ("name: x", "name: is not a top-level key; use study.name"),
        ("dtype: float16", "use engine.dtype"),
        ("max_fevals: 3", "use study.trials instead"),
        ("in_memory: true", "is not needed here"),
        ("genom: 3", "did you mean genome?"),
    ],
)
def test_an_invalid_file_is_refused_with_the_place_of_the_error(more: str, words: str) -> None:
    message = refused(STUDY + more)
    assert words in message
    assert "study.yaml" in message
    assert "Hidden77" not in message


def test_a_long_list_of_errors_is_shortened() -> None:
    assert refused("\n".join(f"key{i}: 1" for i in range(100))).endswith("... and 94 more")


def test_model_name_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    load(f"model_name: My-7B\n{STUDY}")
    assert "model_name has no effect, as in mergekit-evolve" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + STUDY.encode(),
        STUDY.encode("utf-16"),
        (STUDY + "study: {name: 2024-01-01}").encode(),
        (STUDY.replace("}]", "}, {<<: *one, name: second}]")).encode(),
        (STUDY + "study: {trials: 0x10, seed: 1_000, sigma: 1e-1}").encode(),
    ],
    ids=["bom", "utf-16", "date", "merge key", "numbers"],
)
def test_other_spellings_of_a_valid_file_are_read(text: bytes) -> None:
    assert load(text).tasks[0].name == "mc"


def test_a_key_overrides_the_same_key_of_a_merge_key() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {y: 4, <<: [*b, *a]}"
    assert parse_yaml(text.encode())["c"] == {"x": 3, "y": 4}


@pytest.mark.parametrize("key", ["- ", "<<: "], ids=["lists", "merge keys"])
def test_exponential_aliases_are_refused_at_once(key: str) -> None:
    lines = ["a0: &a0 {x: 1}"]
    for i in range(9):
        lines.append(f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}")
    text = "\n".join(lines)
    if key == "- ":
        text = text.replace("{<<: [", "[").replace("]}", "]")
    with pytest.raises(YamlError, match="aliases repeat more than"):
        parse_yaml(text.encode())


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large", "latin", "loop"])
def test_other_kinds_of_files_are_refused_without_blocking(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(2**30)
    else:
        path.write_bytes(b"\n# caf\xe9")
    words = {
        "pipe": "is a pipe or a device",
        "device": "is a pipe or a device",
        "folder": "is a folder",
        "large": f"more than {MAX_FILE_SIZE // 1024} KiB",
        "latin": "line 2: is not UTF-8",
        "loop": "cannot be read",
    }
    with pytest.raises(ConfigError, match=words[kind]):
        load_config(path)


def test_a_study_file_with_the_name_of_its_task_is_not_read_as_the_task(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mc.yaml").write_text("kind: multiple_choice\ndata: q.jsonl\n")
    path = tmp_path / "mc.yaml"
    path.write_text(STUDY.split("tasks:")[0] + "tasks: [mc]")
    assert load_config(path).tasks[0].kind == "multiple_choice"


def test_a_task_name_longer_than_file_names_is_a_task_of_lm_eval() -> None:
    assert load(STUDY.split("tasks:")[0] + f"tasks: [{'x' * 5000}]").tasks[0].kind == "lm_eval"


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([MAX_TRIALS, "linear", "slerp", "a", "../x", "1e5", "~", "2024-13-45"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
KEYS = {
    name: sorted(field.annotation.model_fields)
    for name, field in StudyConfig.model_fields.items()
    if hasattr(field.annotation, "model_fields")
}


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """Draw a valid study in which some keys have other values."""
    data: dict[str, Any] = yaml.safe_load(STUDY)
    for _ in range(draw(st.integers(1, 3))):
        section = draw(st.sampled_from([*KEYS, "", "tasks"]))
        value = draw(VALUES)
        if section == "tasks":
            keys = ["name", "kind", "data", "prompt", "weight", "metric", "max_tokens"]
            data["tasks"] = [{**data["tasks"][0], draw(st.sampled_from(keys)): value}]
        elif section == "":
            return {**data, draw(st.sampled_from(sorted(StudyConfig.model_fields))): value}
        else:
            key = draw(st.sampled_from(KEYS[section]))
            data[section] = {**data.get(section, {}), key: value}
    return data


@pytest.mark.fuzz
@given(changed())
def test_any_value_in_a_study_is_valid_or_a_config_error(data: Any) -> None:
    check_handled(yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))


SIGNS = "a b : - [ ] { } , & * << ! !!int !!map | > ' # ? @ % ~ 1 010 1:30 .nan 2024-13-45 &a *a"
WORDS = 'genome tasks study trials models name --- ... "'
SPACES = ["\n", "\n  ", "\t", ": ", "- ", "\ufeff", "\x00", "\x85", "<<: *a", "&a {x: 1}"]
PIECES = st.sampled_from([*SIGNS.split(), *WORDS.split(), *SPACES])


@pytest.mark.fuzz
@given(st.lists(PIECES, max_size=30).map(" ".join) | st.text(max_size=60))
@example("? a\n" * 50_000)
@example("[a," * 50_000)
@example("a,b: " + "x" * 200_000)
def test_any_text_is_a_study_or_a_config_error(text: str) -> None:
    start = time.process_time()
    check_handled(text.encode("utf-8", "surrogatepass"))
    assert time.process_time() - start < SECONDS


@pytest.mark.fuzz
@given(st.binary(max_size=60))
def test_any_bytes_are_a_study_or_a_config_error(data: bytes) -> None:
    check_handled(data)


@pytest.mark.fuzz
@given(VALUES)
def test_plain_values_are_read_as_by_pyyaml(value: Any) -> None:
    """Except control characters and values that differ between the two versions of YAML."""
    text = yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    try:
        read = parse_yaml(text)
    except YamlError:
        return
    assert repr(read) == repr(yaml.safe_load(text))
