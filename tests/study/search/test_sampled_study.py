"""Tests of a study whose trials are asked a sample of the questions."""

import re
from pathlib import Path
from typing import Any

import pytest

from storage.database.database import open_storage
from storage.scores import SEARCH, ScoreStore
from storage.trials import TrialRecord
from tests.support.commands import (
    TRIALS,
    command,
    records,
    search_of,
    start_run,
    wait_for,
    write_study,
)

QUESTIONS = 45


def sampled(data: dict[str, Any]) -> None:
    data["search"] = {"soft": 1.0, "questions": 0.4}


def results(url: str) -> dict[tuple[int, int], Any]:
    """Return the stored result of each slot, without its times."""
    results = {}
    for record in records(url):
        if record.complete and record.kind == "search":
            result = {k: v for k, v in record.attributes["result"].items() if k != "seconds"}
            results[record.attributes["generation"], record.attributes["slot"]] = result
    return results


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Run a study without interruption; return its folder, its database URL and its output."""
    folder = tmp_path_factory.mktemp("sampled")
    result = command("run", write_study(folder, sampled), folder=folder)
    assert result.returncode == 0, result.stderr
    return folder, f"sqlite:///{folder}/runs/demo/study.db", result.stdout


def of_kind(url: str, kind: str) -> list[TrialRecord]:
    return [record for record in records(url) if record.complete and record.kind == kind]


def test_only_search_trials_are_asked_a_sample(
    whole: tuple[Path, str, str],
) -> None:
    _, url, printed = whole
    asked = [r.attributes["result"]["asked"] for r in of_kind(url, "search")]
    assert len(asked) == TRIALS
    assert max(asked) < 0.7 * QUESTIONS
    for record in [*of_kind(url, "uniform"), *of_kind(url, "candidate")]:
        assert record.attributes["result"]["asked"] == QUESTIONS
        assert not record.sampled
    assert "nan" not in printed
    assert "best trial" in printed
    roles = {r.attributes["role"] for r in of_kind(url, "candidate")}
    assert roles == {"best trial", "CMA mean", "mean of the top 2"}


def test_a_trial_is_ranked_by_the_probability_of_right_answers(
    whole: tuple[Path, str, str],
) -> None:
    for record in of_kind(whole[1], "search"):
        result = record.attributes["result"]
        assert record.objective == result["objective"] == result["soft"]
        assert record.value != record.objective


def test_all_trials_of_a_generation_are_asked_the_same_questions(
    whole: tuple[Path, str, str],
) -> None:
    storage = open_storage(whole[1], create=False)
    answers = ScoreStore(storage)
    asked: dict[int, set[bytes]] = {}
    for record in of_kind(whole[1], "search"):
        stored = answers.read(record.id, SEARCH)["multiple_choice"]
        mask = (stored.scores_Q == stored.scores_Q).tobytes()
        asked.setdefault(record.attributes["generation"], set()).add(mask)
    storage.engine.dispose()
    assert all(len(masks) == 1 for masks in asked.values())
    assert len(set.union(*asked.values())) == len(asked)


@pytest.mark.slow
def test_a_killed_study_that_two_workers_resume_has_the_same_results(
    whole: tuple[Path, str, str], tmp_path: Path
) -> None:
    config, url = write_study(tmp_path, sampled), f"sqlite:///{tmp_path}/s.db"
    process = start_run(config, url)
    wait_for(process, url, 12)
    process.kill()
    process.communicate()
    result = command("run", config, "--storage", url, "--workers", 2, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert search_of(url) == search_of(whole[1])
    assert results(url) == results(whole[1])


def test_a_study_is_not_resumed_with_another_share(
    whole: tuple[Path, str, str], tmp_path: Path
) -> None:
    def less(data: dict[str, Any]) -> None:
        data["search"] = {"soft": 1.0, "questions": 0.3}

    result = command("run", write_study(tmp_path, less), "--storage", whole[1], folder=tmp_path)
    assert result.returncode == 2
    assert "search.questions: 0.4, varying first stored, 0.3, varying first now" in result.stderr


def test_a_task_of_weight_0_is_asked_and_scored(tmp_path: Path) -> None:
    def weight_0(data: dict[str, Any]) -> None:
        sampled(data)
        data["tasks"][1]["weight"] = 0
        data["study"]["trials"] = 5

    result = command("run", write_study(tmp_path, weight_0), folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "nan" not in result.stdout
    url = f"sqlite:///{tmp_path}/runs/demo/study.db"
    searched = of_kind(url, "search")
    assert len(searched) == 5
    for record in searched:
        assert record.value == pytest.approx(0.875 * record.tasks["multiple_choice"])
        assert "retrieval" in record.tasks


def test_verify_asks_an_exported_search_trial_the_same_sample(
    whole: tuple[Path, str, str], tmp_path: Path
) -> None:
    folder, url, _ = whole
    trial = of_kind(url, "search")[-1]
    out = tmp_path / "m"
    result = command(
        "export", folder / "study.yaml", "--trial", trial.number, "--out", out, folder=folder
    )
    assert result.returncode == 0, result.stderr
    card = (out / "README.md").read_text()
    assert "nan" not in card.lower()
    assert "asked a sample" in card
    mean = trial.tasks["multiple_choice"]
    assert f"| this merge ({trial.number}) | {mean:.3f} / -" in card
    assert f"value: {round(mean, 4)}" in card
    result = command("verify", out, folder=folder)
    asked = trial.attributes["result"]["asked"]
    why, counted = result.stdout.splitlines()
    assert counted == f"{asked} of {asked} answers equal"
    assert why.startswith("only what the trial was asked is compared: ")
    parts = re.findall(r"(\d+) of the (\d+) search questions of \w+", why)
    sampled_count, of = (sum(map(int, numbers)) for numbers in zip(*parts, strict=True))
    assert sampled_count < of
    assert asked - sampled_count == QUESTIONS - of, "other tasks were asked all their questions"
    assert result.returncode == 0
