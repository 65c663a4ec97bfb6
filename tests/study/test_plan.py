"""Tests of study.plan, which needs headers and question files but no GPU."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from study.config.errors import ConfigError
from study.config.load import load_config
from study.planning.data import GB, Hardware
from study.planning.estimate import estimate, this_gpu
from study.planning.wording import estimate_text
from study.search.jobs import final_roles
from tests.support.paths import DEMO, ROOT
from tests.support.simulated_verdicts import simulated

SEARCH_KEYS = {
    *("study", "parameters", "population", "trials", "baselines", "generations", "warnings"),
    *("gpu", "workers", "gpus", "memory", "sources", "held_out_questions", "detectable_lead"),
}


def plan(*words: str, config: Path = DEMO / "study.yaml") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "study.plan", str(config), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def estimate_json(
    gpu: str = "h100", host_memory: float = 128, config: Path = DEMO / "study.yaml"
) -> dict[str, Any]:
    """Return the estimate for one worker as JSON data."""
    result = estimate(load_config(config), Hardware(gpu, host_memory * GB, workers=1))
    return dict(json.loads(json.dumps(result.to_dict())))


def demo_text() -> str:
    """Return the demo's study file with absolute paths."""
    text = (DEMO / "study.yaml").read_text().replace("models/", f"{DEMO}/models/")
    return text.replace("questions/", f"{DEMO}/questions/")


def test_the_json_of_a_plan_keeps_its_keys() -> None:
    result = plan("--json", "--gpu", "24GB")
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert data == estimate_json("24GB")
    assert data.keys() == SEARCH_KEYS | {
        *("tokens", "arithmetic", "in_the_end", "seconds_a_trial", "seconds_in_the_end"),
        "seconds",
    }
    assert data["tokens"]["retrieval"].keys() == {"questions", "shared", "own", "decoded"}


def test_a_study_that_does_not_fit_has_no_times() -> None:
    data = estimate_json("1GB", 0.1)
    assert data.keys() == SEARCH_KEYS
    assert data["sources"] is None
    assert data["warnings"][-1] == "the study does not fit this hardware"


def test_a_plan_has_the_numbers_of_the_config() -> None:
    data = estimate_json("24GB")
    assert (data["parameters"], data["population"], data["trials"]) == (48, 15, 120)
    assert (data["generations"], data["baselines"], data["sources"]) == (8, 9, "gpu")
    assert data["warnings"] == [
        "8 generations are few for 48 parameters; for 40 generations set trials: 600 (about "
        "64,650 questions), or "
        "search: {algorithm: gradient}, which needs fewer questions (docs/gradient.md)"
    ]
    tokens = data["tokens"]["multiple_choice"]
    assert tokens["questions"] == 96  # a quarter of 383
    assert tokens["decoded"] == 0
    assert data["seconds"] > 120 * data["seconds_a_trial"]
    # best trial, mean of the top, CMA mean; these, base, parents and the best uniform merge
    assert data["in_the_end"] == {"search questions": 3, "held-out questions": 8}


def test_a_plan_says_which_lead_the_held_out_questions_can_show(tmp_path: Path) -> None:
    data = estimate_json("24GB")
    assert data["held_out_questions"] == 1309
    lead = data["detectable_lead"]
    text = f"a lead of {100 * lead:.1f} points over a parent with a probability of 80%"
    assert text in plan().stdout

    pairs = [(c, 4) for c in range(4)]  # as many contenders as the demo has, and one parent
    shares = [0.7 + lead] * 4 + [0.7]
    observed, _, margins = simulated(0, shares, 400, (1127, 182), pairs)
    shown = (observed - margins)[:, 0] > 0  # a contender that was not selected
    assert 0.75 <= shown.mean() <= 0.95

    (tmp_path / "demo.yaml").write_text(demo_text().replace("0.75", "0"))
    assert estimate_json("24GB", config=tmp_path / "demo.yaml")["detectable_lead"] is None


def test_a_gradient_is_not_advised_if_the_engine_is_vllm(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(demo_text() + "engine: {kind: vllm}\n")
    (warning,) = estimate_json("24GB", config=tmp_path / "demo.yaml")["warnings"]
    assert warning.endswith("for 40 generations set trials: 600 (about 64,650 questions)")


def test_a_plan_counts_the_final_merges(tmp_path: Path) -> None:
    text = demo_text().replace("0.75", "0")
    (tmp_path / "demo.yaml").write_text(text + "search: {questions: 1}\n")
    without_held_out = estimate_json("l4", config=tmp_path / "demo.yaml")
    assert without_held_out["in_the_end"] == {"search questions": 2, "held-out questions": 0}
    data = estimate_json("l4")
    assert data["seconds_in_the_end"] > without_held_out["seconds_in_the_end"] > 0


@pytest.mark.parametrize(
    ("trials", "sampled", "roles"),
    [
        (0, True, []),
        (3, False, ["mean of the top 1"]),
        (4, False, ["mean of the top 1", "CMA mean"]),
        (120, True, ["mean of the top 20", "CMA mean", "best trial"]),
    ],
)
def test_final_merges_depend_on_the_number_of_trials(
    trials: int, sampled: bool, roles: list[str]
) -> None:
    assert final_roles(trials, 4, sampled) == roles


def test_a_sample_of_the_questions_costs_its_share(tmp_path: Path) -> None:
    plans = []
    for share in ("1", "0.25"):
        (tmp_path / "demo.yaml").write_text(f"{demo_text()}search: {{questions: {share}}}\n")
        plans.append(estimate_json(config=tmp_path / "demo.yaml"))
    whole, sample = plans
    for name, tokens in sample["tokens"].items():
        assert tokens["own"] == pytest.approx(whole["tokens"][name]["own"] / 4, abs=1)
        assert tokens["shared"] == whole["tokens"][name]["shared"]
    assert sample["seconds_a_trial"] <= whole["seconds_a_trial"]


def test_a_plan_shows_its_arithmetic_and_its_warnings() -> None:
    text = estimate_text(estimate(load_config(DEMO / "study.yaml"), Hardware("h100", 128 * GB, 1)))
    assert "48 parameters, population 15, 120 trials = 8 generations" in text
    assert "sources: gpu" in text
    assert "weights x" in text
    assert "after the search: 3 merges on all search questions, 8 on all held-out questions" in text
    assert "warning: 8 generations are few" in text


def test_a_plan_without_a_gpu_says_which_one_it_assumes(monkeypatch: pytest.MonkeyPatch) -> None:
    config, hardware = load_config(DEMO / "study.yaml"), Hardware(None, 128 * GB, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "this machine has no GPU" in estimate(config, hardware).warnings[-1]
    assert "memory on h100:" in estimate_text(estimate(config, hardware))
    named = estimate(config, Hardware("l4", 128 * GB, 1))
    assert not any("no GPU" in warning for warning in named.warnings)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L40", "48GB"),
        ("NVIDIA GeForce RTX 4090", "4090"),
    ],
)
def test_a_plan_is_for_the_gpu_of_the_machine(
    device: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: device)
    properties = SimpleNamespace(total_memory=48_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: properties)
    card = this_gpu()
    assert card is not None
    assert (card.name, card.memory) == (name, 48e9)


def test_an_unknown_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="--gpu voodoo: must be h200, h100"):
        estimate_json("voodoo")


def test_a_study_whose_gpus_cannot_share_it_has_no_plan(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(demo_text() + "engine: {tensor_parallel_size: 3}\n")
    with pytest.raises(ConfigError, match="cannot be split across 3 GPUs: 4 attention heads"):
        estimate_json(config=path)


def test_the_workers_of_a_host_share_its_memory_in_a_plan() -> None:
    hardware = Hardware("h100", 64 * GB, workers=4)
    assert "of 16.00 GB on the host" in estimate(load_config(DEMO / "study.yaml"), hardware).memory


def test_a_search_by_gradient_is_estimated_in_steps(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    search = "search: {algorithm: gradient, steps: 20, batch: 40, validation: 0.2}\n"
    path.write_text(demo_text() + search)
    data = estimate_json(config=path)

    assert data["trials"] == data["generations"] == 20
    assert not data["warnings"]
    questions = sum(t["questions"] for t in estimate_json()["tokens"].values())
    share = 0.25  # a trial of CMA-ES is asked a quarter
    validation = 0.2 * questions / share
    assert data["gradient_questions"] == pytest.approx(3 * 20 * 40 + 5 * validation, rel=0.05)
    assert sum(t["questions"] for t in data["tokens"].values()) == pytest.approx(40, abs=1)
    assert data["in_the_end"] == {"search questions": 2, "held-out questions": 7}
    text = estimate_text(estimate(load_config(path), Hardware("h100", 128 * GB, workers=1)))
    assert "20 steps by gradient, at most" in text
