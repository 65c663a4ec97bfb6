"""python -m study.init MODEL ... QUESTIONS ...: write the file of a new study."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.address_space import check_address_space
from study.cli.boundary import main
from study.cli.escaping import say
from study.cli.interrupts import Interrupts
from study.cli.invocation import invocation
from study.cli.session import start_logging

if TYPE_CHECKING:
    from study.setup.setup import Setup

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL... QUESTIONS...",
        help="models (folders or hub ids) and question files (.jsonl or .json), in any order",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="what the models were finetuned from; default: their cards"),
]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="file to write")]
Ask = Annotated[bool, typer.Option(help="show how the models answer a few questions")]


def init(inputs: Inputs, base: Base = None, out: Out = Path("study.yaml"), ask: Ask = True) -> None:
    """Write the file of a new study, for models and question files."""
    start_logging()
    check_address_space()
    with Interrupts():
        _init(inputs, base, out, ask)


def _init(inputs: list[str], base: str | None, out: Path, ask: bool) -> None:
    from study.config.errors import ConfigError

    if out.exists() or out.is_symlink():
        raise ConfigError(f"--out {out}: the file exists; choose another name, or remove it")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--out {out}: the name must end in .yaml")
    files = [Path(text) for text in inputs if _is_question_file(text)]
    models = [text for text in inputs if not _is_question_file(text)]
    every_model = [*models, *([] if base is None else [base])]
    for model in every_model:
        _check_no_file(model)
    if not files:
        raise ConfigError("no question file is given; its name must end in .jsonl or .json")
    if len(models) < 2:
        reason = f"only the model {models[0]} is given" if models else "no model is given"
        raise ConfigError(f"{reason}; a merge needs two or more")
    for file in files:
        if not file.exists():
            raise ConfigError(f"the question file {file} does not exist")
    from objectives.models.locate import check_exists

    for model in every_model:
        check_exists(model, Path())
    from study.drafting.write import write_study  # takes seconds

    setup = write_study(models, files, base, out, say)
    if ask:
        _ask(setup)
    say(f"next: {invocation('plan', [str(out)])}, then {invocation('run', [str(out)])}")


def _check_no_file(reference: str) -> None:
    """Check that a model is not a file. Raises ConfigError."""
    from study.config.errors import ConfigError

    if os.path.isfile(os.path.expanduser(reference)):
        raise ConfigError(
            f"{reference} is a file: models are folders or hub ids, and question files are JSONL "
            "or JSON (pandas: read_csv(FILE).to_json(OUT, orient='records', lines=True))"
        )


def _ask(setup: "Setup") -> None:
    from study.drafting.preview import preview
    from study.setup.engine import choose_engine

    for task in preview(setup, choose_engine(setup.config, "transformers")):
        say("\n".join(["", *task.lines()]))
    say("")


def _is_question_file(text: str) -> bool:
    return text.lower().endswith((".jsonl", ".json"))


if __name__ == "__main__":
    main(init)
