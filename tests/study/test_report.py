"""The end of a study: contenders, verdict, report, export and verification.

The tests share one study of the demo's models with enough held-out questions, or use copies of it.
"""

import io
import json
import re
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sqlalchemy import text

from objectives.errors import ExportError
from objectives.export import target
from objectives.export.export import export as write
from objectives.scoring import QuestionSet
from storage.claims import Claims
from storage.database.database import Database, open_storage
from storage.errors import StorageError, StudyMismatch
from storage.scores import HELD_OUT, SEARCH, ScoreStore
from storage.studies import find_study, stored_verdict
from storage.trials import TrialRecord, Trials
from study.artifacts.check import check
from study.artifacts.export import choose
from study.artifacts.finish import finish_run
from study.cli.interrupts import Interrupts
from study.config.errors import ConfigError
from study.config.load import load_config
from study.export import _export
from study.report import _report
from study.reporting.answer_changes import Example, NeverRight, Selection
from study.reporting.charts import CHARTS
from study.reporting.data import ReportData, report_data
from study.reporting.page import pictures, render, write_report
from study.reporting.parameters import merge_parameters
from study.reporting.provenance import provenance
from study.search.contenders import contenders, count_contenders
from study.search.genome import recipe_of
from study.search.jobs import Jobs
from study.search.state import best_search
from study.setup.setup import Setup, build
from study.verdict.judge import Judgement, judge
from study.verdict.selection import PREFERENCE
from tests.support.commands import command
from tests.support.json_keys import key_paths
from tests.support.paths import DEMO, ROOT
from tests.support.reports import WRITTEN

TRIALS, POPULATION = 8, 4


def write_study(folder: Path, **study: Any) -> Path:
    """Write a study with 80 questions of each task, half of them held out."""
    data = yaml.safe_load((DEMO / "study.yaml").read_text())
    genome = data["genome"]
    genome["models"] = [str(DEMO / model) for model in genome["models"]]
    genome["base_model"] = str(DEMO / genome["base_model"])
    for task in data["tasks"]:
        lines = (DEMO / task["data"]).read_text().split("\n")[:80]
        (folder / Path(task["data"]).name).write_text("\n".join(lines))
        task["data"] = Path(task["data"]).name
    data["study"] |= {"trials": TRIALS, "population": POPULATION, "held_out": 0.5} | study
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


class Study:
    """A study's config and database."""

    def __init__(self, folder: Path, config: Path, setup: Setup) -> None:
        self.folder, self.config, self.setup = folder, config, setup
        self.url = f"sqlite:///{folder}/runs/demo/study.db"

    def copy(self, folder: Path) -> "Study":
        """Copy the study, for a test that changes it."""
        copied = Study(folder, self.config, self.setup)
        (folder / "runs" / "demo").mkdir(parents=True)
        for path in (self.folder / "runs" / "demo").glob("study.db*"):
            shutil.copy(path, folder / "runs" / "demo")
        return copied

    @property
    def database(self) -> Database:
        return open_storage(self.url, create=False)

    @property
    def trials(self) -> Trials:
        database = self.database
        return Trials(database, find_study(database, "demo"))

    @property
    def records(self) -> list[TrialRecord]:
        return self.trials.all()

    @property
    def answers(self) -> ScoreStore:
        return ScoreStore(self.database)

    def judged(self, setup: Setup | None = None) -> Judgement:
        return judge(setup or self.setup, self.records, self.answers)

    def data(self) -> ReportData:
        return report_data(self.setup, self.trials, self.answers, self.judged())

    def execute(self, statement: str) -> None:
        with self.database.engine.begin() as connection:
            connection.execute(text(statement))

    @property
    def merge(self) -> Path:
        [folder] = (self.folder / "runs" / "demo").glob("merge-*")
        return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("whole")
    config = write_study(folder)
    result = command("run", config, folder=folder)
    assert result.returncode == 0, result.stderr
    study = Study(folder, config, build(load_config(config)))
    assert study.judged().sentence in result.stdout
    return study


def of_role(judgement: Judgement, role: str) -> Any:
    return next(line for line in judgement.contenders if line.contender.role == role)


# Contenders and the final merge


def test_contenders_follow_from_the_finished_slots_and_are_scored_on_all_questions(
    whole: Study,
) -> None:
    names = [c.name for c in contenders(whole.records, whole.setup.genome)]
    assert len(names) == count_contenders(whole.setup.genome, TRIALS, POPULATION)
    parents = ["parent numeric", "parent relations", "parent catalogue"]
    uniform = next(name for name in names if name.startswith("best uniform"))
    assert names == ["base", *parents, uniform, "best trial", "mean of the top 2", "CMA mean"]
    search = sorted(
        (r for r in whole.records if r.kind == "search"), key=lambda r: -(r.objective or 0.0)
    )
    top = of_role(whole.judged(), "top").contender.record
    for name, value in top.params.items():
        assert value == pytest.approx(np.mean([r.params[name] for r in search[:2]]))
    for line in whole.judged().contenders:
        for exam, scores in (
            (whole.setup.search, line.search),
            (whole.setup.held_out, line.held_out),
        ):
            assert {t.name: len(t.questions) for t in exam.tasks} == {
                name: len(task.scores_Q) for name, task in scores.tasks.items()
            }


def test_a_smaller_budget_has_no_final_jobs_once_a_longer_search_has_its_final_merges(
    whole: Study,
) -> None:
    """A worker with a smaller budget thus ends when one with a larger budget has finished."""
    jobs = Jobs(whole.setup.genome, whole.setup.rules.sampler(POPULATION, None).replay, 5)
    search = [r for r in whole.records if r.kind != "candidate"]
    assert [job.key for job in jobs.final_jobs(search)] == [
        "mean of the top 1 of 5 search trials",
        "CMA mean after 5 search trials",
    ]
    assert not jobs.done(search)
    assert jobs.final_jobs(whole.records) == []
    assert jobs.done(whole.records)


def test_the_final_merge_has_the_highest_held_out_score_and_is_exported(
    whole: Study,
) -> None:
    judgement = whole.judged()
    assert judgement.rule == "held-out"
    assert judgement.final is not None
    ranked = [of_role(judgement, role) for role in PREFERENCE]
    assert judgement.final.held_out.value == max(line.held_out.value for line in ranked)
    number = judgement.final.contender.record.number
    assert whole.merge.name == f"merge-{number}"
    stored = stored_verdict(whole.trials.study)
    assert stored == {"sentence": judgement.sentence, "trial": number, "after": TRIALS}
    assert judgement.sentence in (whole.merge / "README.md").read_text()
    assert json.loads((whole.merge / "verdict.json").read_text())["sentence"] == judgement.sentence
    references = {c.reference for c in judgement.against_final}
    assert references >= {"base", "parent numeric", "parent relations", "parent catalogue"}


def test_the_parents_ensemble_answers_with_the_highest_mean_probability(whole: Study) -> None:
    judgement = whole.judged()
    assert judgement.ensemble.keys() == {"multiple_choice"}
    parents = [
        line.contender.record for line in judgement.contenders if line.contender.role == "parent"
    ]
    replies = [whole.answers.read_answers(r.id, HELD_OUT)["multiple_choice"] for r in parents]
    [task, _] = whole.setup.held_out.tasks
    right = []
    for i, question in enumerate(task.questions):
        means = np.mean([np.exp(reply.logprobs_Q[i][0]) for reply in replies], axis=0)
        right.append(question.options[int(means.argmax())] == question.labels[0])
    assert judgement.ensemble["multiple_choice"].score == pytest.approx(np.mean(right))


def test_tokens_are_stored_for_all_trials_and_log_probabilities_for_contenders(
    whole: Study,
) -> None:
    best = best_search(whole.records)
    assert best is not None
    for record in whole.records:
        stored = whole.answers.read_answers(record.id, SEARCH)["retrieval"]
        assert len(stored.tokens_Q) == len(whole.setup.search.tasks[1].questions)
        assert (stored.logprobs_Q is not None) == (record.kind != "search")
    assert whole.answers.read_answers(best.id, HELD_OUT)["multiple_choice"].logprobs_Q is not None


# No verdict


@pytest.mark.parametrize("count", [0, 5])
def test_with_few_held_out_questions_the_mean_of_the_top_is_final_without_a_verdict(
    whole: Study, count: int
) -> None:
    few = QuestionSet(
        [t.with_questions(t.questions[:count]) for t in whole.setup.held_out.tasks if count],
        _tokens(),
    )
    judgement = whole.judged(replace(whole.setup, held_out=few))
    assert judgement.rule == "too few held-out questions"
    assert judgement.final is not None
    assert judgement.final.contender.role == "top"
    assert (
        f"No verdict is possible: there are too few held-out questions ({count} of "
        in judgement.sentence
    )
    assert not judgement.comparisons


def _tokens() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO / "models" / "base")


def test_missing_scores_are_reported_and_report_score_adds_them(
    whole: Study, tmp_path: Path
) -> None:
    study = whole.copy(tmp_path)
    final_claims = "what LIKE 'CMA mean%' OR what LIKE 'mean of%'"
    final_trials = f"SELECT trial_id FROM study_claims WHERE {final_claims}"
    study.execute(f"UPDATE trials SET state = 'FAIL' WHERE trial_id IN ({final_trials})")
    study.execute(f"DELETE FROM study_claims WHERE {final_claims}")
    study.execute("DELETE FROM trial_answers WHERE split = 'held_out'")
    judgement = study.judged()
    assert judgement.rule == "not scored yet"
    assert "To score what is missing: " in judgement.sentence
    with pytest.raises(ConfigError, match="--trial final: No verdict yet"):
        choose(study.records, "final", judgement)
    assert (
        choose(study.records, "best", judgement).number
        == of_role(judgement, "best").contender.record.number
    )
    before = len(study.records)
    assert study.data().unscored == [
        f"mean of the top 2 of {TRIALS} search trials",
        f"CMA mean after {TRIALS} search trials",
    ]
    assert len(study.records) == before
    result = command("report", study.config, "--score", "--json", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    now, then = json.loads(result.stdout), whole.data().to_dict()
    assert now["unscored"] == []
    assert without_numbers(now["verdict"]["sentence"]) == without_numbers(
        then["verdict"]["sentence"]
    )
    assert now["verdict"]["comparisons"] == then["verdict"]["comparisons"]


def without_numbers(sentence: str) -> str:
    """Remove trial numbers, which change if contenders are scored again."""
    return re.sub(r"\(trial \d+\)", "", sentence)


def test_a_running_study_has_a_report(whole: Study, tmp_path: Path) -> None:
    """Its search has continued since the contenders were scored."""
    study = whole.copy(tmp_path)
    study.execute(
        "UPDATE trials SET state = 'RUNNING' WHERE number = (SELECT max(number) FROM trials)"
    )
    study.execute("DELETE FROM trial_answers WHERE split = 'held_out'")
    data = study.data()
    assert data.verdict.rule == "not scored yet"
    page = write_report(data, tmp_path / "report").read_text()
    assert f"Not scored yet: CMA mean after {TRIALS} search trials" in page
    assert "No verdict yet" in page
    assert (tmp_path / "report" / "best-so-far.png").exists()
    assert not (tmp_path / "report" / "held-out.png").exists()


def test_a_study_without_a_finished_trial_has_nothing_to_report(tmp_path: Path) -> None:
    from storage.studies import create_study, store_or_check_fingerprint

    config = write_study(tmp_path)
    database = open_storage(f"sqlite:///{tmp_path}/runs/demo/study.db")
    store_or_check_fingerprint(create_study(database, "demo"), {"seed": "7"})
    with (
        Interrupts() as interrupts,
        pytest.raises(ConfigError, match="study demo has no finished trial"),
    ):
        _report(config, [], database.url, False, None, interrupts)
    assert not (tmp_path / "runs" / "demo" / "report").exists()


def test_a_missing_task_is_named_and_leaves_the_weighted_score_empty(
    whole: Study, tmp_path: Path
) -> None:
    study = whole.copy(tmp_path)
    number = of_role(whole.judged(), "best").contender.record.id
    study.execute(f"DELETE FROM trial_answers WHERE task = 'retrieval' AND trial_id = {number}")
    judgement = study.judged()
    assert judgement.final is None
    assert any("on the held-out questions of retrieval" in text for text in judgement.missing)
    assert any("on the search questions of retrieval" in text for text in judgement.lacking)
    assert of_role(judgement, "best").cells(judgement.tasks)[1:] == ["- / -", "- / -", "-"]
    data = study.data()
    page = render(data, pictures(data), WRITTEN)
    assert "No score for: best trial" in page


def test_a_database_without_stored_replies_still_works(whole: Study, tmp_path: Path) -> None:
    study = whole.copy(tmp_path)
    study.execute("DROP TABLE trial_replies")
    judgement = study.judged()
    assert judgement.ensemble == {}
    assert judgement.sentence == whole.judged().sentence
    parts = check(whole.merge, None, study.url, None)
    assert all(part.equal == part.asked for part in parts)
    assert all("only their scores" in part.note for part in parts)


# The page


def test_the_page_is_one_file_with_its_figures_beside_it(whole: Study) -> None:
    folder = whole.folder / "runs" / "demo" / "report"
    page = (folder / "index.html").read_text()
    assert whole.judged().sentence.replace("'", "&#39;") in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "url(" not in page
    drawn = {path.stem for path in folder.glob("*.png")}
    assert drawn <= CHARTS.keys()
    assert drawn >= {
        *("held-out", "differences", "best-so-far", "population", "tasks", "merge"),
        *("convergence", "time"),
    }
    assert page.count("data:image/png;base64,") == len(drawn)
    assert len(page) < 1_500_000


def test_the_page_names_its_date_the_version_the_models_and_the_command(whole: Study) -> None:
    data = whole.data()
    assert data.provenance.version == version("merge-study")
    page = " ".join(render(data, {}, WRITTEN).split())
    assert 'datetime="2026-01-02T03:04:05+00:00">2026-01-02 03:04 UTC</time>' in page
    assert f"by merge-study {data.provenance.version}" in page
    for model in yaml.safe_load(whole.config.read_text())["genome"]["models"]:
        assert model in page
    assert f"python -m study.run {whole.config}" in page


def test_the_command_names_another_database_without_its_password(
    whole: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole.folder)
    assert provenance(whole.setup, whole.url).command == f"python -m study.run {whole.config}"
    command = provenance(whole.setup, "postgresql+psycopg2://me:secret@host/db").command
    assert command.endswith("--storage 'postgresql+psycopg2://me:***@host/db'")


def test_the_counts_of_the_report_follow_from_the_stored_answers(whole: Study) -> None:
    data = whole.data()
    [task, _] = whole.setup.search.tasks
    merges = [r for r in whole.records if r.kind not in ("base", "parent")]
    stored = [whole.answers.read(r.id, SEARCH)["multiple_choice"].scores_Q for r in merges]
    wrong = int((np.max(stored, axis=0) == 0).sum())
    never = data.never_right.tasks["multiple_choice"]
    assert (never.count, never.of) == (wrong, len(task.questions))
    assert data.answer_changes is not None
    changes = data.answer_changes.tasks["multiple_choice"]
    judgement = whole.judged()
    parents = [line for line in judgement.contenders if line.contender.role == "parent"]
    best = max(parents, key=lambda line: line.held_out.value)
    gained = len(whole.setup.held_out.tasks[0].questions) * (
        judgement.final.held_out.tasks["multiple_choice"].mean
        - best.held_out.tasks["multiple_choice"].mean
    )
    assert changes.gained.count - changes.lost.count == pytest.approx(gained, abs=1e-3)
    assert len(data.scores.values) == TRIALS
    steps = data.convergence
    assert [step.generation for step in steps] == list(range(TRIALS // POPULATION + 1))
    assert steps[0].sigma == pytest.approx(1 / 6)
    assert (steps[0].from_start, steps[1].from_start) == (0, steps[1].step)
    assert data.merge is not None
    assert (data.merge.at_bound, data.merge.searched) == (0, 48)


def test_the_page_says_how_many_parameters_are_at_a_bound(whole: Study) -> None:
    space, final = whole.setup.genome.space, whole.judged().final
    assert final is not None
    low, high, *rest = space
    inside = {name: (space[name].low + space[name].high) / 2 for name in rest}
    params = inside | {low: space[low].low, high: space[high].high}
    merge = merge_parameters(replace(final.contender.record, params=params), whole.setup.genome)
    assert merge is not None
    assert (merge.at_bound, merge.searched) == (2, len(space))
    page = " ".join(render(replace(whole.data(), merge=merge), {}, WRITTEN).split())
    assert "2 of 48 parameters of the final merge are within 1% of a bound" in page


def test_the_page_escapes_names_and_questions(whole: Study) -> None:
    selection = Selection(1, 1, [Example("<b>&", "1")])
    data = replace(
        whole.data(),
        study="<script>alert(1)</script>",
        never_right=NeverRight(1, {"multiple_choice": selection}),
    )
    page = render(data, {}, WRITTEN)
    assert "<script>" not in page
    assert "&lt;b&gt;&amp;" in page


# The public formats

KEYS = json.loads((ROOT / "tests" / "stored" / "keys.json").read_text())
"""The keys of the documents that version 0.1.0 wrote."""
ADDED = {
    "report": {
        "advice",
        *("cut_off", "merge.at_bound", "merge.searched"),
        *("provenance", "provenance.version", "provenance.command"),
        *("provenance.models", "provenance.models.label", "provenance.models.reference"),
    },
    "status": {"cut_off", "algorithm"},
}
"""The keys that later versions have added."""
MAY_BE_EMPTY = ("flips.tasks.", "never_right.tasks.", "verdict.parents_ensemble.")


def test_report_verdict_and_status_keep_the_keys_of_their_json(whole: Study) -> None:
    status = json.loads(command("status", whole.config, "--json", folder=whole.folder).stdout)
    verdict = json.loads((whole.merge / "verdict.json").read_text())
    report = whole.data().to_dict()
    assert verdict.pop("exported") == verdict["final"]["trial"]
    assert verdict == report["verdict"]
    for name, data in (("report", report), ("status", status)):
        keys, expected = key_paths(data, KEYS["names"]), set(KEYS[name]) | ADDED[name]
        assert keys <= expected
        assert all(key.startswith(MAY_BE_EMPTY) for key in expected - keys)


# The exported folder


def test_an_exported_folder_reproduces_every_answer(whole: Study) -> None:
    parts = check(whole.merge, None, whole.url, None)
    assert {(p.split, p.task): p.asked for p in parts} == {
        (split, task.name): len(task.questions)
        for split, exam in ((SEARCH, whole.setup.search), (HELD_OUT, whole.setup.held_out))
        for task in exam.tasks
    }
    assert all(part.equal == part.asked for part in parts)
    assert not any(part.note for part in parts), "every bit was compared"


def damaged(whole: Study, folder: Path, damage: Callable[[Path], None]) -> Path:
    copy = Path(shutil.copytree(whole.merge, folder / "merge"))
    damage(copy)
    return copy


@pytest.mark.slow
def test_changed_weights_are_refused_or_with_changed_checksums_answer_differently(
    whole: Study, tmp_path: Path
) -> None:
    import hashlib

    from safetensors.torch import load_file, save_file

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors["lm_head.weight"] = tensors["lm_head.weight"].flip(0).contiguous()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    folder = damaged(whole, tmp_path, damage)
    with pytest.raises(ExportError, match=r"changed since the export: model\.safetensors"):
        check(folder, None, whole.url, None)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  model.safetensors\n")
    result = command("verify", folder, folder=whole.folder)
    assert result.returncode == 1, result.stderr
    assert re.search(r"^held_out questions of multiple_choice: \d+ of \d+ answers differ$",
                     result.stdout, re.MULTILINE)  # fmt: skip


def edited(**change: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "study.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edited(study="other"), "is from study other, .* is demo"),
        (edited(trial=10_000), "has no finished trial 10000"),
        (edited(config="/nowhere/study.yaml"), "does not exist here; set --config"),
        (edited(questions={SEARCH: {}, HELD_OUT: {}}), "its search questions differ from those of"),
        (lambda folder: (folder / "study.json").unlink(), "has no valid study.json"),
        (
            lambda folder: (folder / "SHA256SUMS").unlink(),
            "SHA256SUMS: No such file or directory; export the merge again",
        ),
    ],
)
def test_a_folder_of_another_study_is_refused(
    whole: Study, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    with pytest.raises((ExportError, ConfigError), match=message):
        check(damaged(whole, tmp_path, damage), None, whole.url, None)


def test_changed_sources_are_refused(whole: Study, tmp_path: Path) -> None:
    data = yaml.safe_load(whole.config.read_text())
    shutil.copytree(DEMO / "models", tmp_path / "models")
    data["genome"]["models"] = [
        str(tmp_path / "models" / Path(m).name) for m in data["genome"]["models"]
    ]
    for task in data["tasks"]:
        task["data"] = str(whole.folder / task["data"])
    weights = tmp_path / "models" / "relations" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    changed = tmp_path / "study.yaml"
    changed.write_text(yaml.safe_dump(data))
    for act in (
        lambda: _export(changed, tmp_path / "out", "final", whole.url, False, []),
        lambda: check(whole.merge, changed, whole.url, None),
    ):
        with pytest.raises(StudyMismatch, match=r"model relations: .* stored, .* now") as error:
            act()
        assert "start_from" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_failed_trial_is_not_exported(whole: Study, tmp_path: Path) -> None:
    study = whole.copy(tmp_path)
    claims = Claims(study.database, study.trials.study._study_id, "me")
    claims.fail(claims.start("it", {}, {}, {}), "no reason")
    number = len(study.records) - 1
    with pytest.raises(ConfigError, match=f"--trial {number}: that trial has failed"):
        choose(study.records, str(number), study.judged())


def test_a_full_disk_leaves_no_partial_files(whole: Study, tmp_path: Path) -> None:
    """A limit on the size of files simulates it: the weights do not fit."""
    record = whole.judged().final.contender.record
    recipe = recipe_of(record, whole.setup.genome)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(ExportError, match=r"cannot write .*File too large"):
            write(recipe, whole.setup.sources, whole.setup.locations, tmp_path / "m", "card")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


class Closed(io.StringIO):
    """A standard output whose reader has closed it."""

    def write(self, text: str) -> int:
        if text:
            raise BrokenPipeError(text)
        return 0


def test_results_are_on_the_disk_before_they_are_printed(
    whole: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = whole.copy(tmp_path)
    monkeypatch.chdir(tmp_path)
    study.execute("DELETE FROM study_user_attributes WHERE key = 'verdict'")
    monkeypatch.setattr("sys.stdout", Closed())
    with pytest.raises(BrokenPipeError):
        finish_run(study.setup, study.trials)
    assert (study.merge / "model.safetensors").exists()
    assert (tmp_path / "runs" / "demo" / "report" / "index.html").exists()
    assert stored_verdict(study.trials.study) is not None


def test_a_merge_that_cannot_be_written_does_not_prevent_report_and_table(
    whole: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    study = whole.copy(tmp_path)
    monkeypatch.chdir(tmp_path)
    number = whole.merge.name.removeprefix("merge-")
    monkeypatch.setattr(target, "_unique", lambda: 7)
    monkeypatch.setattr("study.reporting.parameters._BOUND_MARGIN", 0.5)
    (tmp_path / "runs" / "demo" / f".merge-{number}.part-7").touch()
    with pytest.raises(ExportError, match=f"cannot write .*merge-{number}"):
        finish_run(study.setup, study.trials)
    printed = capsys.readouterr().out
    assert whole.judged().sentence in printed
    assert "mean of the top 2" in printed
    assert "\nnote: 48 of 48 parameters of the final merge are within 1% of a bound" in printed
    assert "report: runs/demo/report/index.html" in printed
    assert "merge: " not in printed
    assert (tmp_path / "runs" / "demo" / "report" / "index.html").exists()


def test_verify_refuses_a_merge_of_another_study_of_the_same_name(
    whole: Study, tmp_path: Path
) -> None:
    folder = damaged(whole, tmp_path, edited(identity="0123456789abcdef"))
    with pytest.raises(StorageError, match=r"is not the study that .* --storage"):
        check(folder, None, whole.url, None)
