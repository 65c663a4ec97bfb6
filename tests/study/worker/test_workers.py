"""Several workers on one study: claims, heartbeats, deaths and outages. All but the engine is
real; the engine is that of tests/support/sleeping_study.py, which sleeps."""

import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from optuna.distributions import FloatDistribution
from rich.console import Console
from sqlalchemy.exc import OperationalError

from objectives.scoring import QuestionSet
from storage.claims import Claims, ClaimTaken, TrialLost
from storage.database.database import open_storage
from storage.database.retry import RetryPolicy, is_transient
from storage.errors import StorageError, StudyMismatch
from storage.heartbeat import Heartbeat, Watch
from storage.processes import has_ended, process_name
from storage.scores import HELD_OUT, SEARCH, ScoreStore
from storage.studies import create_study, find_study, stored_fingerprint
from storage.trials import TrialRecord, Trials
from storage.workers import WorkerRecord, Workers
from study.cli.interrupts import Interrupted, Interrupts
from study.cli.options import RunOptions
from study.config.errors import ConfigError
from study.config.study import EngineConfig
from study.monitors.progress import Progress
from study.search.contenders import contenders
from study.search.jobs import Jobs
from study.search.state import CANDIDATE, Slot
from study.setup.engine_facts import THREADS, with_stored_facts
from study.setup.enter import create_or_find_study, enter_study
from study.worker import supervisor
from study.worker.process import WorkerSpec
from study.worker.start import HostShare
from study.worker.supervisor import gpus_for
from tests.support.databases import Server
from tests.support.kills import run_with_kills
from tests.support.sleeping_study import (
    NAME,
    TinyChoice,
    finished_trials,
    run,
    start,
    tiny_config,
    tiny_setup,
)

TRIALS, POPULATION = 23, 5
DISTRIBUTIONS = {"a": FloatDistribution(0.0, 1.0)}
CHOICE = TinyChoice("tiny", "cpu", "float32", 1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[Slot, object]:
    url = f"sqlite:///{tmp_path_factory.mktemp('one')}/study.db"
    assert run(url, tiny_config(TRIALS, POPULATION))
    return dict(finished_trials(url))


def records(url: str) -> list[TrialRecord]:
    database = open_storage(url, create=False)
    try:
        return Trials(database, find_study(database, NAME)).all()
    finally:
        database.engine.dispose()


def two_workers(url: str) -> tuple[Trials, Claims, Claims]:
    """Return a study's trials and the claims of two workers."""
    database = open_storage(url)
    study = create_study(database, NAME)
    first, second = (Claims(database, study._study_id, name) for name in ("first", "second"))
    return Trials(database, study), first, second


def begin(claims: Claims, key: str = "work") -> int:
    return claims.start(key, {"a": 0.5}, DISTRIBUTIONS, {})


def finish(claims: Claims, trial_id: int, value: float = 0.5) -> None:
    claims.finish(trial_id, value, {}, {}, {})


def join(processes: list[BaseProcess], seconds: float = 120) -> list[int | None]:
    for process in processes:
        process.join(seconds)
    return [process.exitcode for process in processes]


# Claims


def test_work_can_be_claimed_only_once(database: str) -> None:
    trials, first, second = two_workers(database)
    trial_id = begin(first)
    with pytest.raises(ClaimTaken):
        begin(second)
    finish(first, trial_id)
    for claims in (first, second):
        with pytest.raises(ClaimTaken):
            begin(claims)
    assert len(trials.all()) == 1


def test_a_failed_trial_can_be_claimed_again(database: str) -> None:
    trials, first, second = two_workers(database)
    first.fail(begin(first), "no reason")
    finish(second, begin(second))
    assert [r.state.name for r in trials.all()] == ["FAIL", "COMPLETE"]


def test_a_trial_that_a_signal_interrupted_can_be_claimed_again_and_is_no_failure(
    database: str,
) -> None:
    trials, _, second = two_workers(database)
    workers = Workers(trials.database, trials.study._study_id)
    worker_id = workers.register("cpu")
    first = Claims(trials.database, trials.study._study_id, worker_id)

    def work() -> None:
        with Heartbeat(workers, worker_id, 60.0):
            begin(first)
            raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted):
        work()
    finish(second, begin(second))
    interrupted, repeated = trials.all()
    states = (interrupted.state.name, interrupted.interrupted, interrupted.failed)
    assert states == ("FAIL", True, False)
    states = (repeated.state.name, repeated.interrupted, repeated.failed)
    assert states == ("COMPLETE", False, False)


def test_writes_are_idempotent(database: str) -> None:
    trials, first, _ = two_workers(database)
    trial_id = begin(first)
    assert begin(first) == trial_id
    finish(first, trial_id)
    finish(first, trial_id)
    first.fail(trial_id, "too late")
    first.acquire("questions")
    first.acquire("questions")
    assert [(r.state.name, r.value) for r in trials.all()] == [("COMPLETE", 0.5)]


def test_work_without_a_trial_can_be_claimed_and_released(database: str) -> None:
    _, first, second = two_workers(database)
    first.acquire("questions")
    with pytest.raises(ClaimTaken):
        second.acquire("questions")
    second.release("questions")
    with pytest.raises(ClaimTaken):
        second.acquire("questions")
    first.release("questions")
    second.acquire("questions")


def test_the_result_of_a_trial_that_has_been_failed_is_refused(database: str) -> None:
    trials, first, _ = two_workers(database)
    trial_id = begin(first)
    first.fail(trial_id, "the worker died")
    with pytest.raises(TrialLost):
        finish(first, trial_id)
    assert trials.all()[0].value is None


def test_a_trial_that_was_failed_manually_can_be_claimed_again(database: str) -> None:
    import optuna

    trials, first, second = two_workers(database)
    trial_id = begin(first)
    trials.study.tell(trials.all()[0].number, state=optuna.trial.TrialState.FAIL)
    with pytest.raises(TrialLost):
        finish(first, trial_id)
    finish(second, begin(second))


def test_deleting_a_running_study_raises_an_error_in_its_workers(database: str) -> None:
    import optuna

    trials, first, _ = two_workers(database)
    trial_id = begin(first)
    optuna.delete_study(study_name=NAME, storage=trials.database)
    with pytest.raises(StorageError, match="deleted while it ran"):
        finish(first, trial_id)
    with pytest.raises(StorageError, match="deleted while it ran"):
        begin(first)


# Heartbeats


def record(**change: object) -> WorkerRecord:
    worker = WorkerRecord("w", "elsewhere", 1, "boot/ns/1/1", "cpu", "work", 0.0, 100.0, 0.0, None)
    return replace(worker, **change)  # type: ignore[arg-type]


def test_a_worker_is_dead_when_no_heartbeat_was_seen_for_the_timeout() -> None:
    watch, silent = Watch(timeout=60), record()
    dead = []
    for now in range(100, 200, 10):
        silent = replace(silent, silent=now - 100.0)
        dead.append(bool(watch.find_dead([silent], float(now))))
    assert dead == [False] * 7 + [True] * 3


def test_a_worker_that_was_silent_for_days_is_dead_after_half_the_timeout() -> None:
    watch, old = Watch(timeout=60), record(silent=1e6)
    assert [bool(watch.find_dead([old], 1e6 + now)) for now in (0.0, 10.0, 20.0, 30.0, 40.0)] == [
        *[False] * 4,
        True,
    ]


def test_no_worker_is_dead_right_after_an_outage() -> None:
    watch = Watch(timeout=60)
    for now in range(100, 140, 10):
        assert not watch.find_dead([record(silent=now - 100.0)], float(now))
    assert not watch.find_dead([record(silent=900.0)], 1000.0)
    assert not watch.find_dead([record(silent=910.0)], 1010.0)
    assert not watch.find_dead([record(beat=1015.0, silent=5.0)], 1020.0)


def test_a_worker_of_this_machine_is_dead_when_its_process_has_ended() -> None:
    child = start_and_kill()
    assert has_ended(child)
    assert not has_ended(process_name())
    *machine, pid, _ = process_name().split("/")
    assert has_ended("/".join([*machine, pid, "1"])), "another process with the same number"
    assert not has_ended("another boot/pid:[1]/1/1")
    assert Watch(60).find_dead([record(process=child)], 0.0)


def start_and_kill() -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, process_name().encode())
        os._exit(0)
    name = os.read(reader, 1000).decode()
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    return name


def test_heartbeats_do_not_depend_on_the_clocks_of_workers(
    database: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    trials, _, _ = two_workers(database)
    workers = Workers(trials.database, trials.study._study_id)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    request.addfinalizer(time.tzset)
    request.addfinalizer(lambda: os.environ.pop("TZ", None))
    clock = time.time
    for skew in (-86400.0, 86400.0):
        monkeypatch.setattr(time, "time", lambda skew=skew: clock() + skew)
        worker_id = workers.register("cpu")
        workers.beat(worker_id, "something")
    listed, now = workers.read_all()
    assert [0 <= r.silent < 60 for r in listed] == [True, True]
    assert abs(now - clock()) < 60


def test_reaping_a_worker_releases_its_unfinished_work_only(database: str) -> None:
    trials, _, second = two_workers(database)
    workers = Workers(trials.database, trials.study._study_id)
    worker_id = workers.register("cpu")
    first = Claims(trials.database, trials.study._study_id, worker_id)
    finish(first, begin(first, "done"))
    begin(first, "half done")
    first.acquire("questions")
    assert {c.key for c in workers.unfinished_claims()[worker_id]} == {"half done", "questions"}
    [dead] = workers.read_all()[0]
    assert sorted(workers.reap(dead) or []) == ["half done", "questions"]
    assert workers.reap(dead) is None
    assert workers.unfinished_claims() == {}
    assert (workers.read_all()[0][0].end or "").startswith("died during ")
    begin(second, "half done")
    with pytest.raises(ClaimTaken):
        begin(second, "done")


def test_a_worker_that_has_recorded_a_heartbeat_meanwhile_is_not_reaped(database: str) -> None:
    trials, _, _ = two_workers(database)
    workers = Workers(trials.database, trials.study._study_id)
    worker_id = workers.register("cpu")
    [before] = workers.read_all()[0]
    time.sleep(0.01)
    workers.beat(worker_id, "it")
    assert workers.reap(before) is None


def test_running_trials_without_a_claim_are_failed(
    database: str, undisturbed: dict[Slot, object]
) -> None:
    from optuna.trial import TrialState, create_trial

    config = tiny_config(TRIALS, POPULATION)
    assert not run(database, config, deadline=0.0)
    trials, _, _ = two_workers(database)
    slot = {"generation": 0, "slot": 2}
    template = create_trial(state=TrialState.RUNNING, user_attrs=slot)
    trials.database.create_new_trial(trials.study._study_id, template)
    assert run(database, config)
    assert finished_trials(database) == undisturbed
    assert [r.attributes["failure"] for r in records(database) if not r.complete] == [
        "its run ended unexpectedly"
    ]


# Several workers


@pytest.mark.parametrize("count", [2, 4, 8])
def test_any_number_of_workers_runs_the_same_search(
    database: str, undisturbed: dict[Slot, object], count: int
) -> None:
    config = tiny_config(TRIALS, POPULATION, heartbeat_timeout=2)
    processes = [start(database, config, 0.01 * (1 + n % 3)) for n in range(count)]
    assert join(processes) == [0] * count
    assert finished_trials(database) == undisturbed
    kinds = Counter(r.kind for r in records(database) if r.complete)
    assert kinds["search"] == TRIALS
    assert kinds["base"] + kinds["parent"] + kinds["uniform"] == 8


def test_killing_workers_at_random_loses_and_duplicates_no_trial(
    database: str, undisturbed: dict[Slot, object]
) -> None:
    import random

    assert run_with_kills(database, TRIALS, kills=6, workers=2, rng=random.Random(1)) == 0
    assert finished_trials(database) == undisturbed
    slots = Counter(
        (r.attributes["generation"], r.attributes["slot"])
        for r in records(database)
        if r.complete and r.kind == "search"
    )
    assert set(slots.values()) == {1}


def test_a_worker_that_was_reaped_while_it_was_stopped_does_no_harm(
    postgres: str, undisturbed: dict[Slot, object]
) -> None:
    """It is stopped during a trial for longer than the timeout, and then continued."""
    config = tiny_config(TRIALS, POPULATION, heartbeat_timeout=1)
    sleeper = start(postgres, config, 0.3)
    while not runs_a_trial(postgres):
        time.sleep(0.05)
    assert sleeper.pid is not None
    os.kill(sleeper.pid, signal.SIGSTOP)
    other = start(postgres, config, 0.0)
    assert join([other]) == [0]
    os.kill(sleeper.pid, signal.SIGCONT)
    assert join([sleeper]) == [0]
    assert finished_trials(postgres) == undisturbed


def runs_a_trial(url: str) -> bool:
    """Return whether a trial is running: a worker that is stopped then holds no locks."""
    return started_search(url) and any(r.state.name == "RUNNING" for r in records(url))


def started_search(url: str) -> bool:
    try:
        return any(r.complete and r.kind == "search" for r in records(url))
    except StorageError:
        return False


def test_workers_wait_for_a_server_that_restarts_or_crashes(
    server: Server, undisturbed: dict[Slot, object]
) -> None:
    config = tiny_config(TRIALS, POPULATION, heartbeat_timeout=1)
    processes = [start(server.url, config, 0.15) for _ in range(2)]
    while not started_search(server.url):
        time.sleep(0.05)
    for mode, seconds in (("fast", 0.0), ("immediate", 0.0), ("fast", 3.0)):
        server.stop(mode)
        time.sleep(seconds)
        server.start()
        time.sleep(0.3)
    assert join(processes) == [0, 0]
    assert finished_trials(server.url) == undisturbed
    assert [r.state.name for r in records(server.url) if not r.complete] == []


def test_retries_end_at_the_limit_with_the_last_error(server: Server) -> None:
    database = open_storage(server.url)
    study = create_study(database, NAME)
    waits: list[float] = []
    database.retry_policy = RetryPolicy(
        0.5, lambda seconds: waits.append(seconds) or time.sleep(seconds)
    )
    server.stop()
    with pytest.raises(OperationalError) as caught:
        Claims(database, study._study_id, "me").acquire("it")
    assert is_transient(caught.value)
    assert len(waits) > 1


def test_failed_trials_are_repeated_and_three_failures_in_a_row_end_a_worker(
    tmp_path: object, undisturbed: dict[Slot, object]
) -> None:
    from objectives.errors import EngineError

    url, config = f"sqlite:///{tmp_path}/s.db", tiny_config(TRIALS, POPULATION)
    assert run(url, config, fails=frozenset({1, 2, 9, 12, 13}))
    assert finished_trials(url) == undisturbed
    url = f"sqlite:///{tmp_path}/t.db"
    with pytest.raises(EngineError, match="3 trials failed in a row"):
        run(url, config, fails=frozenset({10, 11, 12}))
    assert all(r.state.name != "RUNNING" for r in records(url))


def dies_once(spec: WorkerSpec) -> None:
    """Stand in for a worker: record its remaining seconds, and get killed the first time."""
    with spec.path.open("a") as file:
        file.write(f"{spec.seconds}\n")
    if len(spec.path.read_text().split()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_restarted_worker_has_the_remaining_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "run_worker", dies_once)
    trials, _, _ = two_workers(f"sqlite:///{tmp_path}/s.db")
    spec = WorkerSpec(tmp_path / "seconds", "", TRIALS, RunOptions(), 0, HostShare(1, None, 0))
    deadline = time.monotonic() + 1000
    with Progress(Console(), TRIALS, POPULATION) as progress, Interrupts() as interrupts:
        code = supervisor._run_all([spec], [None], deadline, trials, progress, interrupts)
    first, second = map(float, spec.path.read_text().split())
    assert code == 0
    assert second < first <= 1000


def test_a_study_is_fully_scored_when_all_contenders_have_held_out_answers(tmp_path: Path) -> None:
    url, config = f"sqlite:///{tmp_path}/s.db", tiny_config(TRIALS, POPULATION)
    assert run(url, config)
    setup, storage = tiny_setup(config), open_storage(url)
    answers, finished = ScoreStore(storage), records(url)
    of_verdict = [c.record for c in contenders(finished, setup.genome)]
    for record in of_verdict:
        assert not supervisor._is_fully_scored(setup, answers, finished)
        answers.write(record.id, HELD_OUT, answers.read(record.id, SEARCH))
    assert supervisor._is_fully_scored(setup, answers, finished)
    without = replace(setup, held_out=QuestionSet([], None))  # type: ignore[arg-type]
    answers.write(of_verdict[0].id, HELD_OUT, {})
    assert supervisor._is_fully_scored(without, answers, finished)


# Idle workers


def test_an_idle_worker_scores_each_candidate_once(undisturbed: dict[Slot, object]) -> None:
    setup = tiny_setup(tiny_config(TRIALS, POPULATION))
    jobs = Jobs(setup.genome, setup.rules.sampler(POPULATION, None).replay, TRIALS)
    import optuna

    def trial(n: int, attributes: dict[str, object], params: object, value: float) -> TrialRecord:
        state = optuna.trial.TrialState.COMPLETE
        return TrialRecord(n, n, state, params, value, attributes)  # type: ignore[arg-type]

    done = [
        trial(n, {"generation": p.generation, "slot": p.number}, params, value)
        for n, (p, (params, value)) in enumerate(sorted(undisturbed.items()))  # type: ignore[misc]
        if p.generation < 3
    ]
    assert jobs.idle_job([]) is None
    first = jobs.idle_job(done)
    assert first is not None
    assert first.key == "CMA mean before generation 3"
    assert first.params == setup.rules.sampler(POPULATION, None).replay.mean(3, dict(undisturbed))  # type: ignore[arg-type]
    second = jobs.idle_job([*done, trial(99, dict(first.attributes), first.params, 0.0)])
    assert second is not None
    assert second.key == "mean of the top 3 before generation 3"
    top = sorted(done, key=lambda r: -(r.value or 0))[:3]
    for name, value in second.params.items():
        assert value == pytest.approx(sum(r.params[name] for r in top) / 3)
    both = [trial(99 + i, {CANDIDATE: job.key}, {}, 0.0) for i, job in enumerate((first, second))]
    assert jobs.idle_job([*done, *both]) is None


def test_a_worker_that_waits_for_another_scores_candidates(
    database: str, undisturbed: dict[Slot, object]
) -> None:
    """All trials took 1000 seconds, so that the last one leaves enough time."""
    config = tiny_config(TRIALS, POPULATION)
    assert not run(database, config, deadline=0.0)
    trials, _, _ = two_workers(database)
    storage, study_id = trials.database, trials.study._study_id
    other = Claims(storage, study_id, Workers(storage, study_id).register("cpu"))
    setup = tiny_setup(config)
    seconds = {"seconds": {"score": 1000.0}}
    distributions = setup.rules.distributions
    for b in setup.genome.baselines():
        attributes = {"baseline": b.name, "kind": b.kind}
        trial_id = other.start(f"baseline {b.name}", b.params, distributions, attributes)
        other.finish(trial_id, 0.1, {}, seconds, {})
    for slot, (params, value) in sorted(undisturbed.items()):  # type: ignore[misc]
        if slot.generation < 2:
            trial_id = other.start(slot.name, params, distributions, slot.attributes)
            if slot != (1, POPULATION - 1):
                other.finish(trial_id, value, {}, seconds, {})
    last, best = trial_id, max(trials.all(), key=lambda r: r.value or 0.0)
    while not ScoreStore(storage).read(best.id, HELD_OUT):
        assert not run(database, config, deadline=time.monotonic() + 2)
    candidates = [r.attributes[CANDIDATE] for r in records(database) if r.kind == CANDIDATE]
    assert candidates == ["CMA mean before generation 1", "mean of the top 1 before generation 1"]
    other.finish(last, undisturbed[Slot(1, POPULATION - 1)][1], {}, seconds, {})  # type: ignore[index]
    assert run(database, config)
    assert finished_trials(database) == undisturbed


# Bad input


def test_more_workers_than_gpus_are_refused() -> None:
    count = torch.cuda.device_count()
    gpu = replace(CHOICE, device="cuda")
    with pytest.raises(ConfigError, match=f"--workers {count + 1}: .* machine has {count}"):
        gpus_for(gpu, count + 1)
    with pytest.raises(ConfigError, match="cuda:0 is a single GPU"):
        gpus_for(replace(CHOICE, device="cuda:0"), 1)
    assert gpus_for(CHOICE, 3) == [None] * 3


def test_a_worker_that_joins_a_study_with_other_settings_is_refused(database: str) -> None:
    storage = open_storage(database)
    enter_study(tiny_setup(tiny_config(TRIALS, POPULATION)), storage, CHOICE)
    enter_study(tiny_setup(tiny_config(TRIALS, POPULATION)), storage, CHOICE)
    with pytest.raises(StudyMismatch, match="seed: 0 stored, 1 now"):
        enter_study(tiny_setup(tiny_config(TRIALS, POPULATION, seed=1)), storage, CHOICE)


def test_a_study_without_trials_takes_the_population_for_the_workers_that_start_it(
    database: str,
) -> None:
    setup, storage = (
        tiny_setup(tiny_config(TRIALS, None, fit_population=True)),
        open_storage(database),
    )
    assert [create_or_find_study(setup, storage, CHOICE, n)[1] for n in (1, 8, 4)] == [10, 16, 12]
    _, population, _ = enter_study(setup, storage, CHOICE, 8)
    assert population == 16
    assert [create_or_find_study(setup, storage, CHOICE, n)[1] for n in (1, 4)] == [16, 16]


def test_the_population_depends_on_the_workers_with_fit_population() -> None:
    fits = tiny_setup(tiny_config(TRIALS, None, fit_population=True))
    assert [fits.rules.population(n) for n in (1, 4, 8)] == [10, 12, 16]
    assert tiny_setup(tiny_config(TRIALS, None)).rules.population(8) == 10
    assert tiny_setup(tiny_config(TRIALS, None).with_trials(400)).rules.population() == 20


def test_filters_that_match_nothing_are_refused_in_new_studies_only(database: str) -> None:
    """A stored study with such filters continues: a change of its filters would be refused."""
    config = tiny_config(TRIALS, POPULATION)
    filters = {"genome": config.genome.model_copy(update={"filters": ("mlp", "self_atn")})}
    setup = tiny_setup(config.model_copy(update=filters))
    layout = [SimpleNamespace(name="layers.0.mlp"), SimpleNamespace(name="layers.0.self_attn")]
    setup = replace(setup, sources=SimpleNamespace(layout=layout))  # type: ignore[arg-type]
    storage = open_storage(database)
    with pytest.raises(ConfigError, match=r"self_atn matches no tensor$"):
        create_or_find_study(setup, storage, CHOICE)
    with pytest.raises(StorageError, match="no study tiny"):
        find_study(storage, NAME)
    enter_study(tiny_setup(config), storage, CHOICE)
    create_or_find_study(setup, storage, CHOICE)


def test_an_unknown_start_from_is_refused_with_the_names_of_the_studies(database: str) -> None:
    storage = open_storage(database)
    create_study(storage, "other")
    setup = tiny_setup(tiny_config(TRIALS, POPULATION, start_from="gone"))
    with pytest.raises(StorageError, match=r"no study gone in .*; its studies are other$"):
        enter_study(setup, storage, CHOICE)


def test_a_wrong_password_is_reported_at_once(guarded_server: Server) -> None:
    open_storage(guarded_server.url)
    with pytest.raises(StorageError, match="password authentication failed") as caught:
        open_storage(guarded_server.url.replace(":right@", ":wrong-one@"))
    assert "wrong-one" not in str(caught.value)


def test_a_read_only_database_is_reported_at_once(server: Server) -> None:
    from sqlalchemy import create_engine, text

    admin = create_engine(server.url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("ALTER DATABASE postgres SET default_transaction_read_only = on"))
    admin.dispose()
    with pytest.raises(StorageError, match="read-only transaction"):
        open_storage(server.url)


def fill(claims: Claims) -> None:
    for n in range(2000):
        claims.acquire(f"{n} {'x' * 200}")


def test_a_full_disk_is_retried_and_then_reported(tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    trials, first, _ = two_workers(url)
    trials.database.retry_policy = RetryPolicy(0.5)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OperationalError, match=r"disk|full") as caught:
            fill(first)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert is_transient(caught.value)
    first.acquire("after space was freed")


# Threads


def stored_threads(url: str) -> str | None:
    database = open_storage(url, create=False)
    try:
        return stored_fingerprint(find_study(database, NAME)).get(THREADS)
    finally:
        database.engine.dispose()


def with_threads(threads: int | None) -> TinyChoice:
    return replace(CHOICE, config=EngineConfig(threads=threads))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("environment", "configured", "stored"),
    [("", None, "1"), ("3", None, "3"), ("3,2", None, "3"), ("many", None, "1"), ("3", 2, "2")],
)
def test_a_new_study_stores_its_threads_and_keeps_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: None,
    environment: str,
    configured: int | None,
    stored: str,
) -> None:
    url, setup = f"sqlite:///{tmp_path}/s.db", tiny_setup(tiny_config(TRIALS, POPULATION))
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    storage = open_storage(url)
    enter_study(setup, storage, with_threads(configured), 5)
    assert stored_threads(url) == stored
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    torch.set_num_threads(5)
    joined = enter_study(setup, storage, with_threads(None))[0]
    choice = with_stored_facts(with_threads(None), joined.study)
    assert (choice.threads, torch.get_num_threads()) == (int(stored), int(stored))
    assert choice.signature.endswith(f", {stored} threads")
    with pytest.raises(StudyMismatch, match=rf"engine.threads: {stored} stored, 6 now"):
        enter_study(setup, storage, with_threads(6))
    storage.engine.dispose()


def test_a_stored_study_without_threads_continues_with_those_of_each_run(
    tmp_path: Path, threads: None
) -> None:
    url, config = f"sqlite:///{tmp_path}/s.db", tiny_config(TRIALS, POPULATION)
    assert run(url, tiny_config(POPULATION, POPULATION))
    storage = open_storage(url)
    study = find_study(storage, NAME)
    old = {k: v for k, v in stored_fingerprint(study).items() if k != THREADS}
    study.set_user_attr("fingerprint", old)
    for number in (None, 3):
        trials, _, _ = enter_study(tiny_setup(config), storage, with_threads(number))
        torch.set_num_threads(2)
        assert with_stored_facts(with_threads(number), trials.study).threads == number
        assert torch.get_num_threads() == (number or 2)
    storage.engine.dispose()
    assert run(url, config)
    assert stored_threads(url) is None


def test_a_study_on_a_gpu_stores_no_threads(tmp_path: Path) -> None:
    setup, storage = (
        tiny_setup(tiny_config(TRIALS, POPULATION)),
        open_storage(f"sqlite:///{tmp_path}/s.db"),
    )
    enter_study(setup, storage, replace(with_threads(4), device="cuda"))
    assert stored_threads(storage.url) is None
    storage.engine.dispose()
