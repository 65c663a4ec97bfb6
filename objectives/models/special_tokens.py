"""Special tokens of a merge: those that end its answers, and ids without a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from objectives.errors import SourceError
from objectives.files.model_files import GENERATION_CONFIG, read_json

_EOS, _PAD = "eos_token_id", "pad_token_id"


@dataclass(frozen=True)
class EndTokens:
    """The tokens after which a model writes nothing more."""

    dropped: tuple[int, ...]
    """Those that config.json names too; an answer does not contain them."""
    kept: tuple[int, ...] = ()
    """Those that only generation_config.json names. They stay in the answer, as in lm-eval, so
    their text counts unless they are special tokens."""

    @property
    def all(self) -> tuple[int, ...]:
        return self.dropped + self.kept


def end_tokens(
    label: str, folder: Path, config: Mapping[str, Any], rows: int, generation: bool = True
) -> EndTokens:
    """The end tokens of a merge whose config.json is `config`, and whose special tokens are those
    of the model in `folder`.

    As in transformers, eos_token_id of generation_config.json replaces that of config.json, which
    counts where the former has none; without `generation` config.json alone counts. A token beyond
    the `rows` of the embedding ends nothing: no model can write it. Raises SourceError.
    """
    stored = config[_EOS] if _EOS in config else _default(config)
    own = _ids(stored, f"{label}: {folder / 'config.json'}", rows)
    if not generation:
        return EndTokens(own)
    path = folder / GENERATION_CONFIG
    named = read_generation_config(label, folder).get(_EOS)
    if named is None:
        return EndTokens(own)
    ends = _ids(named, f"{label}: {path}", rows)
    return EndTokens(
        tuple(token for token in ends if token in own),
        tuple(token for token in ends if token not in own),
    )


def read_generation_config(label: str, folder: Path) -> dict[str, Any]:
    """The folder's generation_config.json; empty if there is none. Raises SourceError."""
    path = folder / GENERATION_CONFIG
    return read_json(label, path) if path.exists() else {}


def merged_generation_config(
    label: str, folder: Path, config: Mapping[str, Any], rows: int
) -> dict[str, Any]:
    """The generation_config.json of a merge whose config.json is `config`: the one in `folder`
    with every special token that only config.json names, since transformers reads them there."""
    stored = without_stray_pad(read_generation_config(label, folder), rows)
    ids = {key: config.get(key) for key in ("bos_token_id", _EOS, _PAD)}
    if not stored:
        return {key: value for key, value in ids.items() if value is not None}
    if stored.get(_EOS) is None and ids[_EOS] is not None:
        return {**stored, _EOS: ids[_EOS]}
    return stored


def without_stray_pad(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The same without a pad_token_id that the embedding has no row for: torch refuses it, and
    scores do not depend on padding."""
    pad = config.get(_PAD)
    if isinstance(pad, int) and not -rows <= pad < rows:
        return {**config, _PAD: None}
    return dict(config)


def _default(config: Mapping[str, Any]) -> Any:
    """What transformers takes for eos_token_id if config.json has no such key."""
    return getattr(AutoConfig.for_model(**config).get_text_config(decoder=True), _EOS, None)


def _ids(value: Any, where: str, rows: int) -> tuple[int, ...]:
    listed = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in listed):
        raise SourceError(
            f"{where}: {_EOS} must be a token id or a list of token ids, not {str(value)[:60]}"
        )
    return tuple(token for token in dict.fromkeys(listed) if 0 <= token < rows)
