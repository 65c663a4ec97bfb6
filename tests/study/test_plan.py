"""study.plan: from headers and question files, without a GPU."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from objectives.engines.engine import Prompt
from objectives.engines.host_memory import available
from objectives.engines.memory import Sizes, groups_within, indivisible, kv_bytes_per_token, sizes
from objectives.errors import EngineError
from objectives.merge.catalogue import METHODS
from objectives.models.sources import Sources
from study.planning import cost
from tests.support.paths import DEMO, ROOT

SEVEN_B = 14_483_464_192
MISTRALS = Sizes(
    model=SEVEN_B,
    kv_cache=4_300_000_000,
    activations=2_000_000_000,
    sources=dict.fromkeys(("base", "x", "y", "z"), SEVEN_B),
    buffers=1_048_576_000,
    merged=262_144_000,
)


def plan(*words: str, config: Path = DEMO / "study.yaml") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "study.plan", str(config), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def demo_text() -> str:
    """The demo's study, for a file in any folder."""
    text = (DEMO / "study.yaml").read_text().replace("models/", f"{DEMO}/models/")
    return text.replace("questions/", f"{DEMO}/questions/")


def test_it_counts_what_the_config_says() -> None:
    result = plan("--json", "--gpu", "24GB")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["parameters"], found["population"], found["trials"]) == (48, 15, 120)
    assert (found["generations"], found["baselines"], found["sources"]) == (8, 9, "gpu")
    assert found["warnings"] == ["8 generations are few for 48 parameters; 40 need trials: 600"]
    tokens = found["tokens"]["multiple_choice"]
    assert tokens["questions"] == 96  # a quarter of 383
    assert tokens["decoded"] == 0
    assert found["seconds"] > 120 * found["seconds_a_trial"]
    # best trial, mean of the top, CMA mean; these, base, parents and the best uniform merge
    assert found["in_the_end"] == {"search questions": 3, "held-out questions": 8}


def test_what_is_asked_in_the_end_counts(tmp_path: Path) -> None:
    text = demo_text().replace("0.75", "0")
    (tmp_path / "demo.yaml").write_text(text + "search: {questions: 1}\n")
    found = json.loads(plan("--json", "--gpu", "l4", config=tmp_path / "demo.yaml").stdout)
    assert found["in_the_end"] == {"search questions": 2, "held-out questions": 0}
    more = json.loads(plan("--json", "--gpu", "l4").stdout)
    assert more["seconds_in_the_end"] > found["seconds_in_the_end"] > 0


def test_a_sample_of_the_questions_costs_its_share(tmp_path: Path) -> None:
    text, found = demo_text(), []
    for share in ("1", "0.25"):
        (tmp_path / "demo.yaml").write_text(f"{text}search: {{questions: {share}}}\n")
        found.append(json.loads(plan("--json", config=tmp_path / "demo.yaml").stdout))
    whole, part = found
    for name, tokens in part["tokens"].items():
        assert tokens["own"] == pytest.approx(whole["tokens"][name]["own"] / 4, abs=1)
        assert tokens["shared"] == whole["tokens"][name]["shared"]
    assert part["seconds_a_trial"] <= whole["seconds_a_trial"]


def test_it_shows_its_arithmetic_and_its_doubts() -> None:
    text = plan().stdout
    assert "48 parameters, population 15, 120 trials = 8 generations" in text
    assert "sources gpu" in text
    assert "weights x" in text
    assert "warning: 8 generations are few" in text


def test_an_unknown_card_is_refused() -> None:
    result = plan("--gpu", "voodoo")
    assert result.returncode == 2
    assert "known are h200, h100" in result.stderr


@pytest.mark.parametrize(
    ("memory", "host", "place"),
    [(141e9, 0, "gpu"), (85e9, 128e9, "gpu"), (80e9, 128e9, "pinned"), (30e9, 32e9, "file")],
)
def test_sources_go_to_the_first_place_with_room(memory: float, host: float, place: str) -> None:
    if place == "gpu" and host == 0:
        host = 2e9
    assert MISTRALS.choose_residence("auto", int(memory), int(host)) == place


def test_what_cannot_fit_is_refused_with_the_table() -> None:
    with pytest.raises(EngineError, match=r"(?s)does not fit.*source x +14.48 GB.*sources file"):
        MISTRALS.choose_residence("auto", int(16e9), int(128e9))
    with pytest.raises(EngineError, match=r"engine.sources: gpu"):
        MISTRALS.choose_residence("gpu", int(48e9), int(128e9))


def test_sizes_come_from_the_headers() -> None:
    folders = {name: DEMO / "models" / name for name in ("base", "numeric")}
    sources = Sources(folders, "base")
    found = sizes(sources, "bfloat16", 1024, 64, 4096)
    stored = sum(p.stat().st_size for p in (DEMO / "models" / "base").glob("*.safetensors"))
    assert found.sources["base"] == pytest.approx(stored, rel=0.02)
    assert found.model == found.sources["base"]
    mistral = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    assert kv_bytes_per_token(mistral | {"hidden_size": 4096}, 2) == 131072


def test_shared_tokens_count_once_and_in_blocks() -> None:
    prompts = [Prompt(tuple(range(400 + own)), 405, 7, ()) for own in (60, 100)]
    found = cost.tokens_of(prompts)
    assert (found.questions, found.shared, found.own, found.decoded) == (2, 400, 160, 12)
    assert found.computed == 572
    assert cost.tokens_of([]).computed == 0


def test_seconds_are_operations_over_rates() -> None:
    card = cost.Card("x", 80e9, 1e15, 3e12, 50e9)
    assert cost.scoring_seconds(7_000_000_000, 350_000, card) == pytest.approx(4.9 / 0.56)
    pair = cost.scoring_seconds(7_000_000_000, 350_000, card, gpus=2)
    assert pair == pytest.approx(4.9 / 0.56 / 1.6)

    def merge(place: str, on: cost.Card, method: str = "dare_ties") -> float:
        return cost.merge_seconds(MISTRALS, place, on, method)

    assert merge("gpu", card) == pytest.approx(2.6 * 7 * SEVEN_B / 3e12)
    assert merge("gpu", card, "della") > 100 * merge("gpu", card)
    assert merge("pinned", card) == pytest.approx(4 * SEVEN_B / 45e9)
    slow = dataclasses.replace(card, bandwidth=1e10)
    assert merge("pinned", slow) == merge("gpu", slow)


def test_what_a_merge_takes_is_known_of_every_method() -> None:
    known = {*cost._MERGE_TIMES_OF, "linear", "task_arithmetic", "dare_linear", "dare_ties"}
    assert known == set(METHODS)


def test_a_coarser_genome_is_found_where_one_has_generations_enough() -> None:
    assert cost.coarser(32, 4, 6, 1000, None) == (16, 12)
    assert cost.coarser(32, 4, 6, 100, None) is None
    assert cost.coarser(32, 4, 6, 1000, 30) is None


def test_gpus_that_share_a_model_keep_sources_each() -> None:
    pair = dataclasses.replace(MISTRALS, gpus=2)
    assert pair.on_host("pinned") == 2 * MISTRALS.on_host("pinned")
    assert pair.on_host("file") == 2 * MISTRALS.on_host("file")


@pytest.mark.parametrize(
    ("gpus", "what"),
    [(1, None), (2, None), (8, None), (16, None), (3, "32 attention heads")],
)
def test_what_gpus_cannot_share_is_named(gpus: int, what: str | None) -> None:
    mistral = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000}
    assert indivisible(mistral | {"intermediate_size": 14336}, gpus) == what


def test_what_gpus_cannot_share_is_named_of_every_part() -> None:
    odd = {"num_attention_heads": 36, "num_key_value_heads": 8, "vocab_size": 32000}
    assert indivisible(odd | {"intermediate_size": 14336}, 6) == "8 key-value heads"
    odd |= {"num_key_value_heads": 36}
    assert indivisible(odd | {"intermediate_size": 14336}, 6) == "intermediate size 14336"
    assert indivisible(odd | {"intermediate_size": 3600}, 6) == "32000 rows of the vocabulary"


def test_a_study_whose_gpus_cannot_share_it_has_no_plan(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(demo_text() + "engine: {tensor_parallel_size: 3}\n")
    result = plan(config=path)
    assert result.returncode == 2
    assert "tensor_parallel_size: 3 cannot share the models evenly: 4 attent" in result.stderr


def test_groups_hold_no_more_than_there_is_room_for() -> None:
    tokens = {7: 40, 2: 60, 9: 1, 4: 150, 1: 100, 3: 99}
    assert list(groups_within(100, tokens)) == [[7, 2], [9], [4], [1], [3]]
    assert list(groups_within(100, {})) == []


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  800 kB\n")
    return path


def test_the_hosts_memory_is_what_is_available(machine: Path, tmp_path: Path) -> None:
    assert available(machine, tmp_path, tmp_path / "none") == 800 * 1024
    assert available(tmp_path / "none", tmp_path, tmp_path / "none") == 0
    assert 0 < available() < 2**50


@pytest.mark.parametrize("place", ["", "job/step"], ids=["in a container", "in a job"])
@pytest.mark.parametrize(
    ("controllers", "folder", "limit", "used"),
    [
        ("", ".", "memory.max", "memory.current"),
        ("cpu,memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
    ids=["v2", "v1"],
)
def test_the_limit_of_a_control_group_counts(
    machine: Path,
    tmp_path: Path,
    place: str,
    controllers: str,
    folder: str,
    limit: str,
    used: str,
) -> None:
    """In a container the host's path is not to be found, and the root is the container's own."""
    groups, own = tmp_path / "groups", tmp_path / "own"
    own.write_text(f"4:cpuset:/elsewhere\n3:{controllers}:/{place or 'docker/1234'}\n")
    group = groups / folder / Path(place).parent
    group.mkdir(parents=True)
    (group / limit).write_text("400000\n")
    (group / used).write_text("150000\n")
    (group / "memory.stat").write_text("anon 80000\nactive_file 20000\ninactive_file 30000\n")
    assert available(machine, groups, own) == 400000 - 150000 + 50000
    for none in ("max\n", f"{2**63 - 4096}\n"):
        (group / limit).write_text(none)
        assert available(machine, groups, own) == 800 * 1024


def test_sources_on_the_gpu_need_nothing_of_the_host() -> None:
    assert MISTRALS.choose_residence("auto", int(141e9), 0) == "gpu"
    with pytest.raises(EngineError, match="does not fit"):
        MISTRALS.choose_residence("auto", int(80e9), 0)


def test_workers_of_a_host_share_its_memory_in_a_plan() -> None:
    assert "of 16.00 GB of the host" in plan("--workers", "4", "--host-memory", "64").stdout


def test_a_generation_waits_for_its_last_trial() -> None:
    waves = cost.by_generation(302, 15)
    assert sum(waves) == 302
    assert cost.seconds_of([(wave, 1.0) for wave in waves], 14) == 20 * 2 + 1
