"""Studies, trials, scores and answers that are stored and read back, on SQLite and PostgreSQL."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from sqlalchemy import create_engine, event, text

from storage.answers import StoredAnswers
from storage.database.database import open_storage
from storage.database.url import redacted, storage_url
from storage.errors import StorageError, StudyMismatch
from storage.scores import HELD_OUT, SEARCH, ScoreStore, StoredScores
from storage.studies import (
    create_study,
    find_study,
    store_or_check_fingerprint,
    store_verdict,
    stored_verdict,
)
from storage.trials import Trials
from tests.support.stored_trials import new, random_scores, trial


def same(a: StoredScores, b: StoredScores) -> bool:
    return (
        (a.weight, a.non_finite) == (b.weight, b.non_finite)
        and np.array_equal(a.scores_Q, b.scores_Q)
        and np.array_equal(a.soft_Q, b.soft_Q)
    )


def test_scores_are_read_back_unchanged_and_replace_earlier_ones(database: str) -> None:
    trials, claims = new(database)
    trial_id, store = trial(claims), ScoreStore(trials.database)
    store.write(trial_id, SEARCH, {"one": random_scores(1), "two": random_scores(2)})
    store.write(trial_id, HELD_OUT, {"one": random_scores(3)})
    store.write(trial_id, SEARCH, {"one": random_scores(4), "two": random_scores(2)})
    answers = store.read(trial_id, SEARCH)
    assert answers.keys() == {"one", "two"}
    assert same(answers["one"], random_scores(4))
    assert same(answers["two"], random_scores(2))
    assert same(store.read(trial_id, HELD_OUT)["one"], random_scores(3))
    assert store.read(trial_id + 1, SEARCH) == {}


def answers_of(seed: int) -> StoredAnswers:
    """Two questions: one with two prompts, one whose answer is empty and has non-finite numbers."""
    tokens = (((seed, 7), (9,)), ((),))
    logprobs = (((-0.1, -2.5), (-1.0,)), ((float("nan"), float("-inf")),))
    return StoredAnswers("engine", tokens, logprobs)


def test_answers_are_read_back_unchanged_and_are_replaced_with_their_scores(database: str) -> None:
    trials, claims = new(database)
    trial_id, store = trial(claims), ScoreStore(trials.database)
    for seed in (1, 2):
        store.write(
            trial_id, HELD_OUT, {"one": replace(random_scores(seed, 2), answers=answers_of(seed))}
        )
    answers = store.read_answers(trial_id, HELD_OUT)["one"]
    assert (answers.engine, answers.tokens_Q) == ("engine", answers_of(2).tokens_Q)
    assert answers.logprobs_Q is not None
    read, written = (np.array([v for q in x for p in q for v in p], dtype="f4") for x in
                   (answers.logprobs_Q, answers_of(2).logprobs_Q or ()))  # fmt: skip
    assert read.tobytes() == written.tobytes()
    assert store.read_answers(trial_id, SEARCH) == {}
    bare = replace(answers_of(3), logprobs_Q=None)
    claims.finish(trial_id, 0.5, {}, {}, {"one": replace(random_scores(3, 2), answers=bare)})
    assert store.read_answers(trial_id, SEARCH) == {"one": bare}
    assert store.read_all(trials.study._study_id, HELD_OUT).keys() == {trial_id}


def test_a_database_without_the_table_of_answers_can_be_read_and_gets_it_when_opened_for_writing(
    database: str,
) -> None:
    trials, claims = new(database)
    trial_id = trial(claims)
    ScoreStore(trials.database).write(trial_id, HELD_OUT, {"one": random_scores(1)})
    with trials.database.engine.begin() as connection:
        connection.execute(text("DROP TABLE trial_replies"))
    old = ScoreStore(open_storage(database, create=False))
    assert same(old.read(trial_id, HELD_OUT)["one"], random_scores(1))
    assert old.read_answers(trial_id, HELD_OUT) == {}
    mended = ScoreStore(open_storage(database))
    mended.write(trial_id, HELD_OUT, {"one": replace(random_scores(1), answers=answers_of(1))})
    assert mended.read_answers(trial_id, HELD_OUT).keys() == {"one"}


def test_storing_the_same_verdict_again_reports_no_change(database: str) -> None:
    trials, _ = new(database)
    assert stored_verdict(trials.study) is None
    assert store_verdict(trials.study, "Better.", 7, 120)
    assert not store_verdict(trials.study, "Better.", 7, 120)
    again = find_study(open_storage(database), "s")
    assert stored_verdict(again) == {"sentence": "Better.", "trial": 7, "after": 120}


def test_deleting_a_study_deletes_its_scores(database: str) -> None:
    trials, claims = new(database)
    trial_id, store = trial(claims), ScoreStore(trials.database)
    store.write(trial_id, SEARCH, {"one": random_scores(1)})
    optuna.delete_study(study_name="s", storage=trials.database)
    assert store.read(trial_id, SEARCH) == {}


def test_scores_left_by_a_deleted_study_are_removed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    (trials, one), (_, two) = new(url, "kept"), new(url, "gone")
    kept, gone, store = trial(one), trial(two), ScoreStore(trials.database)
    for trial_id in (kept, gone):
        store.write(trial_id, HELD_OUT, {"one": replace(random_scores(1), answers=answers_of(1))})
    optuna.delete_study(study_name="gone", storage=url)
    assert store.read(gone, HELD_OUT)
    store.remove_orphans()
    assert not store.read(gone, HELD_OUT)
    assert not store.read_answers(gone, HELD_OUT)
    assert store.read_answers(kept, HELD_OUT)
    assert store.read(kept, HELD_OUT)


def test_a_finished_trial_is_read_back_with_all_its_results(database: str) -> None:
    _, claims = new(database)
    result = {"error": 0.1, "seconds": {"merge": 1.5}}
    claims.finish(trial(claims), 0.5, {"t": 0.25}, result, {"t": random_scores(1)})
    storage = open_storage(database, create=False)
    [record] = Trials(storage, find_study(storage, "s")).all()
    assert same(ScoreStore(storage).read(record.id, SEARCH)["t"], random_scores(1))
    assert record.params == {"a": 0.1, "b": 0.2}
    assert (record.value, record.error, record.tasks) == (0.5, 0.1, {"t": 0.25})
    assert record.seconds == {"merge": 1.5}
    assert record.kind == "search"
    assert record.complete


def test_creating_and_finishing_a_trial_takes_one_transaction_each(database: str) -> None:
    trials, claims = new(database)
    distributions = {f"p{i}": FloatDistribution(0.0, 1.0) for i in range(48)}
    commits = []
    event.listen(trials.database.engine, "commit", lambda _: commits.append(1))
    attributes = {"generation": 1, "slot": 2}
    trial_id = claims.start("it", dict.fromkeys(distributions, 0.5), distributions, attributes)
    assert len(commits) == 1
    claims.finish(trial_id, 0.5, {"t": 0.5}, {"soft": 0.5}, {"t": random_scores(1)})
    assert len(commits) == 2
    assert len(trials.all()[0].params) == 48


def test_optuna_reads_our_trials_like_its_own(database: str) -> None:
    bounds = {"a": (0.0, 1.0), "b": (-0.4, 1.4)}
    distributions = {name: FloatDistribution(*ends) for name, ends in bounds.items()}
    trials, claims = new(database)
    trial_id = claims.start("it", {"a": 0.25, "b": -0.125}, distributions, {"slot": 3})
    claims.finish(trial_id, 0.5, {}, {}, {})
    [stock] = optuna.load_study(study_name="s", storage=database).trials
    study = optuna.create_study(study_name="t", storage=database, direction="maximize")
    asked = study.ask()
    for name, (low, high) in bounds.items():
        asked.suggest_float(name, low, high)
    study.tell(asked, 0.5)
    assert stock.params == {"a": 0.25, "b": -0.125}
    assert stock.distributions == study.trials[0].distributions
    assert (stock.value, stock.number) == (0.5, 0)
    assert trials.all()[0].params == stock.params


def test_different_settings_are_refused_with_a_list_of_the_differences(database: str) -> None:
    trials, claims = new(database)
    store_or_check_fingerprint(trials.study, {"seed": "7"})
    store_or_check_fingerprint(trials.study, {"seed": "0", "space a": "0 to 1"})
    trial(claims)
    again = create_study(open_storage(database), "s")
    store_or_check_fingerprint(again, {"seed": "0", "space a": "0 to 1"})
    with pytest.raises(StudyMismatch, match=r"seed: 0 stored, 1 now\n  space b: nothing stored"):
        store_or_check_fingerprint(again, {"seed": "1", "space a": "0 to 1", "space b": "0 to 2"})


def test_a_fingerprint_of_another_programs_study_is_refused(database: str) -> None:
    storage = open_storage(database)
    other = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    other.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StudyMismatch, match="belongs to another program"):
        store_or_check_fingerprint(create_study(storage, "s"), {"seed": "0"})


def test_a_study_that_minimizes_is_refused(database: str) -> None:
    storage = open_storage(database)
    optuna.create_study(study_name="s", storage=storage, direction="minimize")
    with pytest.raises(StudyMismatch, match="does not maximize"):
        create_study(storage, "s")


def test_a_database_of_another_application_is_refused(database: str) -> None:
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customers (id INTEGER)"))
    engine.dispose()
    with pytest.raises(
        StorageError, match="not an Optuna database: it contains the tables customers"
    ):
        open_storage(database)


def test_opening_without_create_creates_nothing(tmp_path: Path, postgres: str) -> None:
    with pytest.raises(StorageError, match="no database"):
        open_storage(f"sqlite:///{tmp_path}/none.db", create=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(StorageError, match="does not hold any study"):
        open_storage(postgres, create=False)


def test_a_missing_study_is_reported_with_the_names_of_the_others(database: str) -> None:
    storage = open_storage(database)
    create_study(storage, "here")
    with pytest.raises(StorageError, match=r"no study gone in .*; its studies are here"):
        find_study(storage, "gone")


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("x" * 5000)
    with pytest.raises(StorageError, match="not a database"):
        open_storage(f"sqlite:///{tmp_path}/study.db")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://user:secret@127.0.0.1:1/none", "refused"),
        ("postgresql://user:secret@nowhere.invalid/none", "nowhere.invalid"),
    ],
)
def test_an_unreachable_server_is_reported_without_the_password(url: str, reason: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_storage(storage_url(url, "s", Path()))
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("postgresql://u@h/d", "postgresql+psycopg2://u@h/d"),
        ("postgres://u:p@h/d", "postgresql+psycopg2://u:p@h/d"),
        ("sqlite:///a/b.db", "sqlite:////base/a/b.db"),
        ("sqlite:////x/b.db", "sqlite:////x/b.db"),
    ],
)
def test_urls_get_a_driver_and_an_absolute_path(url: str, opened: str) -> None:
    assert storage_url(url, "s", Path("/base")) == opened


@pytest.mark.parametrize("url", ["mysql://h/d", "study.db", "sqlite://", "postgresql://h:port/d"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(StorageError):
        storage_url(url, "s", Path())


def test_a_password_is_never_shown() -> None:
    assert "secret" not in redacted("postgresql://u:secret@h/d")
    assert redacted("postgresql://u:secret@h/d") == "postgresql://u:***@h/d"


def test_sqlite_uses_write_ahead_logging_and_a_default_file_under_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_storage(storage_url(None, "demo", Path("/elsewhere")))
    with sqlite3.connect(tmp_path / "runs" / "demo" / "study.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_waiting_worker_is_told_that_the_study_was_deleted(database: str) -> None:
    trials, claims = new(database)
    trial(claims)
    trials.all()
    optuna.delete_study(study_name="s", storage=open_storage(database))
    with pytest.raises(StorageError, match="deleted while it ran"):
        trials.all()
    with pytest.raises(StorageError, match="deleted while it ran"):
        claims.acquire("held-out of 3")
