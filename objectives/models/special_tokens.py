"""The special tokens of a merge: end tokens, and padding tokens without an embedding."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from objectives.errors import SourceError
from objectives.files.model_files import GENERATION_CONFIG, read_json

_EOS, _PAD = "eos_token_id", "pad_token_id"
_OF_CODE = ("auto_map", "custom_generate", "quantization_config", "trust_remote_code")
"""Keys of generation_config.json that refer to the code or weights of the original model."""


@dataclass(frozen=True)
class EndTokens:
    """The tokens that end an answer."""

    dropped: tuple[int, ...]
    """The end tokens that are in config.json; they are removed from the answer."""
    kept: tuple[int, ...] = ()
    """The end tokens that are only in generation_config.json. They stay in the answer, as in
    lm-eval: their text is part of the scored text, unless the tokenizer removes them as special
    tokens."""

    @cached_property
    def all(self) -> tuple[int, ...]:
        return self.dropped + self.kept


def end_tokens(
    label: str,
    folder: Path,
    config: Mapping[str, Any],
    rows: int,
    use_generation_config: bool = True,
) -> EndTokens:
    """Return the end tokens of a merge whose config.json is `config` and whose
    generation_config.json is that of `folder`.

    As in transformers, eos_token_id in generation_config.json takes precedence over that in
    config.json. If `use_generation_config` is false, only config.json is read. Ids outside the
    embedding, which has `rows` rows, are left out because a model cannot generate them.
    Raises SourceError.
    """
    stored = config[_EOS] if _EOS in config else _default(config)
    own = _ids(stored, f"{label}: {folder / 'config.json'}", rows)
    if not use_generation_config:
        return EndTokens(own)
    path = folder / GENERATION_CONFIG
    generation_eos = read_generation_config(label, folder).get(_EOS)
    if generation_eos is None:
        return EndTokens(own)
    ends = _ids(generation_eos, f"{label}: {path}", rows)
    return EndTokens(
        tuple(token for token in ends if token in own),
        tuple(token for token in ends if token not in own),
    )


def read_generation_config(label: str, folder: Path) -> dict[str, Any]:
    """Return a folder's generation_config.json, or {} if it has none. Raises SourceError."""
    path = folder / GENERATION_CONFIG
    return read_json(label, path) if path.exists() else {}


def merged_generation_config(
    label: str, folder: Path, config: Mapping[str, Any], rows: int
) -> dict[str, Any]:
    """Return generation_config.json of a merge whose config.json is `config`.

    It is that of `folder` without the keys that refer to code or weights. A missing eos_token_id is
    taken from `config`; a pad_token_id outside the embedding becomes null. If the folder has no
    such file, or no key is left, return the bos, eos and pad ids of `config`. Raises SourceError.
    """
    stored = without_invalid_pad(read_generation_config(label, folder), rows)
    stored = {key: value for key, value in stored.items() if key not in _OF_CODE}
    ids = {key: config.get(key) for key in ("bos_token_id", _EOS, _PAD)}
    if not stored:
        return {key: value for key, value in ids.items() if value is not None}
    if stored.get(_EOS) is None and ids[_EOS] is not None:
        return {**stored, _EOS: ids[_EOS]}
    return stored


def without_invalid_pad(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Return the config, with pad_token_id set to None if the embedding has no row for it.

    torch refuses such an id, and scores do not depend on padding.
    """
    pad = config.get(_PAD)
    if isinstance(pad, int) and not -rows <= pad < rows:
        return {**config, _PAD: None}
    return dict(config)


def _default(config: Mapping[str, Any]) -> Any:
    """Return the eos_token_id that transformers uses for a config that has none."""
    return getattr(AutoConfig.for_model(**config).get_text_config(decoder=True), _EOS, None)


def _ids(value: Any, where: str, rows: int) -> tuple[int, ...]:
    tokens = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in tokens):
        raise SourceError(
            f"{where}: {_EOS} must be a token id or a list of token ids, not {str(value)[:60]}"
        )
    return tuple(token for token in dict.fromkeys(tokens) if 0 <= token < rows)
