"""Real parts for the tests: tiny checkpoints, the demo's trained models, Postgres.

Property tests take their settings from a profile of Hypothesis, which STUDY_HYPOTHESIS names:
  ci    the default: few examples, the same ones at each run
  fuzz  `make fuzz`: many examples, other ones at each run; a failure prints the seed
A property test is marked `@pytest.mark.fuzz`, which `make fuzz` selects by, and passes no
`max_examples`, `deadline`, `derandomize` or `database` to `@settings`: these belong to the profile.
STUDY_HYPOTHESIS_EXAMPLES sets the number of examples of either profile.
"""

import tests.support.interpreted  # noqa: F401, I001  # before anything imports Triton

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from tests.support.databases import Server, postgres_database
from tests.support.models import WORDS, MakeModel

_TOO_SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
"""Checks of Hypothesis that depend on the machine's speed, or that a tmp_path does not pass."""
_EXAMPLES = int(os.environ.get("STUDY_HYPOTHESIS_EXAMPLES", "0"))
settings.register_profile(
    "ci",
    max_examples=_EXAMPLES or 50,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=_TOO_SLOW,
)
settings.register_profile(
    "fuzz",
    max_examples=_EXAMPLES or 5000,
    deadline=None,
    suppress_health_check=_TOO_SLOW,
    print_blob=True,
)
settings.load_profile(os.environ.get("STUDY_HYPOTHESIS", "ci"))

_LONGEST = (
    *("test_run.py", "test_vllm.py", "test_workers.py", "test_gradient_study.py"),
    *("test_lm_eval.py", "test_report.py", "test_stream.py"),
)
"""Files that take minutes, which are therefore begun first."""

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """make_model(folder, seed, ...): a random Mistral folder with a word-level tokenizer."""

    def make(
        folder: Path,
        seed: int,
        layers: int = 4,
        words: list[str] | None = None,
        tied: bool = False,
        dtype: torch.dtype = torch.float32,
        shard: str = "5GB",
        hidden: int = 16,
        rows: int | None = None,
    ) -> Path:
        words = WORDS if words is None else words
        torch.manual_seed(seed)
        config = MistralConfig(
            vocab_size=rows or len(words),
            hidden_size=hidden,
            intermediate_size=24,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=128,
            sliding_window=None,
            tie_word_embeddings=tied,
            bos_token_id=0,
            eos_token_id=1,
        )
        model = MistralForCausalLM(config).to(dtype)
        model.save_pretrained(folder, max_shard_size=shard)
        tokenizer = Tokenizer(
            models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[2])
        )
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token=words[0], eos_token=words[1]
        ).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def family(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and three finetunes of four layers, float32, that differ everywhere."""
    root = tmp_path_factory.mktemp("family")
    return {
        name: make_model(root / name, seed) for seed, name in enumerate(("base", "x", "y", "z"))
    }


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server on which databases can be made."""
    given = os.environ.get("STUDY_TEST_POSTGRES")
    for url in filter(None, [given, "postgresql+psycopg2://postgres@127.0.0.1:5432/postgres"]):
        if _answers(url):
            yield url
            return
    made = _server()
    yield made.url
    made.close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A Postgres server of the test's own, to stop and start."""
    made = _server()
    yield made
    made.close()


@pytest.fixture
def guarded_server() -> Iterator[Server]:
    """One that wants a password."""
    made = _server("right")
    yield made
    made.close()


def _server(password: str | None = None) -> Server:
    try:
        return Server(password)
    except FileNotFoundError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(f"POSTGRES TESTS DID NOT RUN: {error}; STUDY_TEST_POSTGRES names a server")


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """URL of an empty database of the test's own."""
    with postgres_database(postgres_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    url: str = request.getfixturevalue("postgres")
    return url


def _answers(url: str) -> bool:
    engine = create_engine(url, connect_args={"connect_timeout": 3})
    try:
        with engine.connect():
            return True
    except OperationalError:
        return False
    finally:
        engine.dispose()
