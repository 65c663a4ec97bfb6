"""Write the file of a new study."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from objectives.errors import NotLearnable
from objectives.files.units import count_text
from objectives.models.locate import parts_of
from study.config.errors import ConfigError
from study.config.load import load_config
from study.config.section import name_error
from study.config.study import StudyConfig
from study.setup.setup import Setup, build

from .draft import Models, draft, method_of, relative
from .models import base_in_cards, inspect_models
from .questions import inspect_file
from .text import reasons, study_text


def write_study(
    models: Sequence[str],
    files: Sequence[Path],
    base: str | None,
    out: Path,
    say: Callable[[object], None],
) -> Setup:
    """Write the file of a new study to `out`, and return the study.

    `say` prints the settings with their reasons. Relative paths of models and question files start
    at the current folder in the arguments, and at the folder of `out` in the file. If the study
    cannot run, no file is left. Raises ConfigError, SourceError, QuestionError and TaskError.
    """
    inspected = [inspect_file(path) for path in files]
    reason = ""
    if base is None:
        base = base_in_cards(models, Path())
        reason = "" if base is None else "named in the models' cards"
    folder = out.parent
    named = Models(
        tuple(_reference(model, folder) for model in models),
        None if base is None else _reference(base, folder),
        reason,
    )
    sketch: dict[str, Any] = {
        "genome": {"models": list(named.models), "merge_method": method_of(base).value},
        "tasks": [{"name": "any", "kind": "multiple_choice", "data": "any"}],
        "study": {"name": "any"},
    }
    if named.base is not None:
        sketch["genome"]["base_model"] = named.base
    family = inspect_models(StudyConfig.model_validate(sketch).with_file(out, (), None))
    result = draft(_name(out), named, family, inspected, folder)
    try:
        setup = _written(study_text(result), out)
    except NotLearnable as error:
        reason = str(error).partition(";")[0]
        result = draft(_name(out), named, family, inspected, folder, reason)
        setup = _written(study_text(result), out)
    say(
        f"{family.architecture}, {family.layers} layers, "
        f"{count_text(family.parameters)} parameters per model, on {family.device}"
    )
    say("\n".join([f"wrote {out}:", *reasons(result)]))
    return setup


def _written(text: str, out: Path) -> Setup:
    """Write the file and return its study. Remove the file again if the study cannot run.

    Raises ConfigError and the errors of `build`.
    """
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    try:
        setup = build(load_config(out), check_values=False)
        setup.check_filters()
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return setup


def _reference(reference: str, folder: Path) -> str:
    """Return a model's reference for a study file in `folder`, with local paths made relative."""
    parts = [
        relative(Path(part).expanduser(), folder) if Path(part).expanduser().is_dir() else part
        for part in parts_of(reference, Path())
    ]
    return "+".join(parts)


def _name(out: Path) -> str:
    """Return the name of the study: the file's, or its folder's if the file is study.yaml."""
    name = out.stem
    parent = out.resolve().parent.name
    if name == "study" and name_error(parent) is None:
        return parent
    return name
