"""Many workers on one study: claims, heartbeats, deaths, outages. The worker, its storage and its
processes are the real ones; the engine is the one of tests/support/sleeping_study.py, which sleeps
for as long as a test asks."""

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
from rich.console import Console
from sqlalchemy.exc import OperationalError

from objectives.scoring import QuestionSet
from storage.claims import Claims, ClaimTaken, TrialLost
from storage.database.database import open_storage
from storage.database.retry import RetryPolicy, is_transient
from storage.errors import StorageError, StudyMismatch
from storage.heartbeat import Heartbeat
from storage.processes import has_ended, process_name
from storage.scores import HELD_OUT, SEARCH, ScoreStore
from storage.studies import create_study, find_study, stored_fingerprint
from storage.trials import TrialRecord, Trials
from storage.workers import Watch, WorkerRecord, Workers
from study.cli.interrupts import Interrupted, Interrupts
from study.cli.options import RunOptions
from study.config.errors import ConfigError
from study.config.schema import EngineConfig
from study.monitors.progress import Progress
from study.search.contenders import contenders
from study.search.jobs import Jobs
from study.search.state import CANDIDATE, Slot
from study.setup.engine_facts import THREADS, as_stored
from study.setup.enter import enter_study, make_study
from study.worker import supervisor
from study.worker.process import WorkerSpec
from study.worker.start import HostShare
from study.worker.supervisor import gpus_for
from tests.support.databases import Server
from tests.support.kills import run_with_kills
from tests.support.sleeping_study import (
    NAME,
    TinyChoice,
    evaluations,
    run,
    start,
    tiny_config,
    tiny_setup,
)

TRIALS, POPULATION = 23, 5
BOUNDS = {"a": (0.0, 1.0)}
CHOICE = TinyChoice("tiny", "cpu", "float32", 1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[Slot, object]:
    url = f"sqlite:///{tmp_path_factory.mktemp('one')}/study.db"
    assert run(url, tiny_config(TRIALS, POPULATION))
    return dict(evaluations(url))


def records(url: str) -> list[TrialRecord]:
    database = open_storage(url, create=False)
    try:
        return Trials(database, find_study(database, NAME)).all()
    finally:
        database.engine.dispose()


def two(url: str) -> tuple[Trials, Claims, Claims]:
    """A study's trials and the claims of two workers."""
    database = open_storage(url)
    study = create_study(database, NAME)
    mine, yours = (Claims(database, study._study_id, name) for name in ("me", "you"))
    return Trials(database, study), mine, yours


def begin(claims: Claims, what: str = "it") -> int:
    return claims.start(what, {"a": 0.5}, BOUNDS, {})


def finish(claims: Claims, trial_id: int, value: float = 0.5) -> None:
    claims.finish(trial_id, value, {}, {}, {})


def ended(processes: list[BaseProcess], seconds: float = 120) -> list[int | None]:
    for process in processes:
        process.join(seconds)
    return [process.exitcode for process in processes]


# Claims


def test_work_is_claimed_once(database: str) -> None:
    trials, mine, yours = two(database)
    trial_id = begin(mine)
    with pytest.raises(ClaimTaken):
        begin(yours)
    finish(mine, trial_id)
    for claims in (mine, yours):
        with pytest.raises(ClaimTaken):
            begin(claims)
    assert len(trials.all()) == 1


def test_failed_work_is_free_again(database: str) -> None:
    trials, mine, yours = two(database)
    mine.fail(begin(mine), "no reason")
    finish(yours, begin(yours))
    assert [r.state.name for r in trials.all()] == ["FAIL", "COMPLETE"]


def test_a_trial_that_a_signal_interrupted_is_free_again_and_has_not_failed(database: str) -> None:
    trials, _, yours = two(database)
    workers = Workers(trials.database, trials.study._study_id)
    worker_id = workers.register("cpu")
    mine = Claims(trials.database, trials.study._study_id, worker_id)

    def work() -> None:
        with Heartbeat(workers, worker_id, 60.0):
            begin(mine)
            raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted):
        work()
    finish(yours, begin(yours))
    first, second = trials.all()
    assert (first.state.name, first.interrupted, first.failed) == ("FAIL", True, False)
    assert (second.state.name, second.interrupted, second.failed) == ("COMPLETE", False, False)


def test_writes_that_were_not_confirmed_may_be_done_twice(database: str) -> None:
    trials, mine, _ = two(database)
    trial_id = begin(mine)
    assert begin(mine) == trial_id
    finish(mine, trial_id)
    finish(mine, trial_id)
    mine.fail(trial_id, "too late")
    mine.acquire("questions")
    mine.acquire("questions")
    assert [(r.state.name, r.value) for r in trials.all()] == [("COMPLETE", 0.5)]


def test_work_without_a_trial_is_claimed_and_released(database: str) -> None:
    _, mine, yours = two(database)
    mine.acquire("questions")
    with pytest.raises(ClaimTaken):
        yours.acquire("questions")
    yours.release("questions")
    with pytest.raises(ClaimTaken):
        yours.acquire("questions")
    mine.release("questions")
    yours.acquire("questions")


def test_the_result_of_a_trial_that_was_given_up_is_not_taken(database: str) -> None:
    trials, mine, _ = two(database)
    trial_id = begin(mine)
    mine.fail(trial_id, "taken for dead")
    with pytest.raises(TrialLost):
        finish(mine, trial_id)
    assert trials.all()[0].value is None


def test_a_trial_that_somebody_failed_by_hand_does_not_block_its_place(database: str) -> None:
    import optuna

    trials, mine, yours = two(database)
    trial_id = begin(mine)
    trials.study.tell(trials.all()[0].number, state=optuna.trial.TrialState.FAIL)
    with pytest.raises(TrialLost):
        finish(mine, trial_id)
    finish(yours, begin(yours))


def test_a_study_that_is_deleted_meanwhile_is_an_error(database: str) -> None:
    import optuna

    trials, mine, _ = two(database)
    trial_id = begin(mine)
    optuna.delete_study(study_name=NAME, storage=trials.database)
    with pytest.raises(StorageError, match="deleted while it ran"):
        finish(mine, trial_id)
    with pytest.raises(StorageError, match="deleted while it ran"):
        begin(mine)


# Who is dead


def record(**change: object) -> WorkerRecord:
    here = WorkerRecord("w", "elsewhere", 1, "boot/ns/1/1", "cpu", "it", 0.0, 100.0, 0.0, None)
    return replace(here, **change)  # type: ignore[arg-type]


def test_silence_is_death_only_after_the_grace_period_and_under_the_watchs_eyes() -> None:
    watch, silent = Watch(timeout=60), record()
    seen = []
    for now in range(100, 200, 10):
        silent = replace(silent, silent=now - 100.0)
        seen.append(bool(watch.find_dead([silent], float(now))))
    assert seen == [False] * 7 + [True] * 3


def test_one_that_was_silent_for_days_is_given_half_the_grace_period_to_be_heard() -> None:
    watch, old = Watch(timeout=60), record(silent=1e6)
    assert [bool(watch.find_dead([old], 1e6 + now)) for now in (0.0, 10.0, 20.0, 30.0, 40.0)] == [
        *[False] * 4,
        True,
    ]


def test_after_an_outage_everybody_gets_the_time_to_be_heard_again() -> None:
    watch = Watch(timeout=60)
    for now in range(100, 140, 10):
        assert not watch.find_dead([record(silent=now - 100.0)], float(now))
    assert not watch.find_dead([record(silent=900.0)], 1000.0)
    assert not watch.find_dead([record(silent=910.0)], 1010.0)
    assert not watch.find_dead([record(beat=1015.0, silent=5.0)], 1020.0)


def test_a_process_of_this_machine_is_dead_when_it_is_gone() -> None:
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


def test_no_workers_clock_counts(
    database: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    trials, _, _ = two(database)
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


def test_a_dead_workers_work_is_free_and_the_finished_kept(database: str) -> None:
    trials, _, yours = two(database)
    workers = Workers(trials.database, trials.study._study_id)
    worker_id = workers.register("cpu")
    mine = Claims(trials.database, trials.study._study_id, worker_id)
    finish(mine, begin(mine, "done"))
    begin(mine, "half done")
    mine.acquire("questions")
    assert {c.key for c in workers.unfinished_claims()[worker_id]} == {"half done", "questions"}
    [dead] = workers.read_all()[0]
    assert sorted(workers.reap(dead) or []) == ["half done", "questions"]
    assert workers.reap(dead) is None
    assert workers.unfinished_claims() == {}
    assert (workers.read_all()[0][0].end or "").startswith("died during ")
    begin(yours, "half done")
    with pytest.raises(ClaimTaken):
        begin(yours, "done")


def test_one_that_was_heard_of_meanwhile_is_not_buried(database: str) -> None:
    trials, _, _ = two(database)
    workers = Workers(trials.database, trials.study._study_id)
    worker_id = workers.register("cpu")
    [before] = workers.read_all()[0]
    time.sleep(0.01)
    workers.beat(worker_id, "it")
    assert workers.reap(before) is None


def test_trials_that_nobody_has_claimed_do_not_run_for_ever(
    database: str, undisturbed: dict[Slot, object]
) -> None:
    from optuna.trial import TrialState, create_trial

    config = tiny_config(TRIALS, POPULATION)
    assert not run(database, config, deadline=0.0)
    trials, _, _ = two(database)
    place = {"generation": 0, "slot": 2}
    template = create_trial(state=TrialState.RUNNING, user_attrs=place)
    trials.database.create_new_trial(trials.study._study_id, template)
    assert run(database, config)
    assert evaluations(database) == undisturbed
    assert [r.attributes["failure"] for r in records(database) if not r.complete] == [
        "its run ended without a word"
    ]


# One search


@pytest.mark.parametrize("count", [2, 4, 8])
def test_any_number_of_workers_makes_the_same_search(
    database: str, undisturbed: dict[Slot, object], count: int
) -> None:
    config = tiny_config(TRIALS, POPULATION, grace=2)
    crew = [start(database, config, 0.01 * (1 + n % 3)) for n in range(count)]
    assert ended(crew) == [0] * count
    assert evaluations(database) == undisturbed
    kinds = Counter(r.kind for r in records(database) if r.complete)
    assert kinds["search"] == TRIALS
    assert kinds["base"] + kinds["parent"] + kinds["uniform"] == 8


def test_workers_killed_at_random_lose_and_double_nothing(
    database: str, undisturbed: dict[Slot, object]
) -> None:
    import random

    assert run_with_kills(database, TRIALS, kills=6, workers=2, rng=random.Random(1)) == 0
    assert evaluations(database) == undisturbed
    places = Counter(
        (r.attributes["generation"], r.attributes["slot"])
        for r in records(database)
        if r.complete and r.kind == "search"
    )
    assert set(places.values()) == {1}


def test_a_worker_that_was_taken_for_dead_spoils_nothing(
    postgres: str, undisturbed: dict[Slot, object]
) -> None:
    """Stopped in the middle for longer than the grace period, then let go on."""
    config = tiny_config(TRIALS, POPULATION, grace=1)
    sleeper = start(postgres, config, 0.3)
    while not in_the_middle_of_a_trial(postgres):
        time.sleep(0.05)
    assert sleeper.pid is not None
    os.kill(sleeper.pid, signal.SIGSTOP)
    other = start(postgres, config, 0.0)
    assert ended([other]) == [0]
    os.kill(sleeper.pid, signal.SIGCONT)
    assert ended([sleeper]) == [0]
    assert evaluations(postgres) == undisturbed


def in_the_middle_of_a_trial(url: str) -> bool:
    """Stopped within a transaction it would keep the database's locks for a minute."""
    return started_search(url) and any(r.state.name == "RUNNING" for r in records(url))


def started_search(url: str) -> bool:
    try:
        return any(r.complete and r.kind == "search" for r in records(url))
    except StorageError:
        return False


def test_a_server_that_restarts_and_crashes_is_waited_for(
    server: Server, undisturbed: dict[Slot, object]
) -> None:
    config = tiny_config(TRIALS, POPULATION, grace=1)
    crew = [start(server.url, config, 0.15) for _ in range(2)]
    while not started_search(server.url):
        time.sleep(0.05)
    for mode, away in (("fast", 0.0), ("immediate", 0.0), ("fast", 3.0)):
        server.stop(mode)
        time.sleep(away)
        server.start()
        time.sleep(0.3)
    assert ended(crew) == [0, 0]
    assert evaluations(server.url) == undisturbed
    assert [r.state.name for r in records(server.url) if not r.complete] == []


def test_patience_ends_and_the_last_error_is_raised(server: Server) -> None:
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


def test_three_failures_in_a_row_end_a_worker_and_a_failed_place_is_asked_again(
    tmp_path: object, undisturbed: dict[Slot, object]
) -> None:
    from objectives.errors import EngineError

    url, config = f"sqlite:///{tmp_path}/s.db", tiny_config(TRIALS, POPULATION)
    assert run(url, config, fails=frozenset({1, 2, 9, 12, 13}))
    assert evaluations(url) == undisturbed
    url = f"sqlite:///{tmp_path}/t.db"
    with pytest.raises(EngineError, match="3 trials failed in a row"):
        run(url, config, fails=frozenset({10, 11, 12}))
    assert all(r.state.name != "RUNNING" for r in records(url))


def dies_once(spec: WorkerSpec) -> None:
    """In a worker's place: notes how long it has, and is killed the first time."""
    with spec.path.open("a") as file:
        file.write(f"{spec.seconds}\n")
    if len(spec.path.read_text().split()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_started_again_has_what_is_left_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "work", dies_once)
    trials, _, _ = two(f"sqlite:///{tmp_path}/s.db")
    spec = WorkerSpec(tmp_path / "seconds", "", TRIALS, RunOptions(), 0, HostShare(1, None, 0))
    deadline = time.monotonic() + 1000
    with Progress(Console(), TRIALS, POPULATION) as progress, Interrupts() as interrupts:
        code = supervisor._run_all([spec], [None], deadline, trials, progress, interrupts)
    first, second = map(float, spec.path.read_text().split())
    assert code == 0
    assert second < first <= 1000


def test_a_study_is_judged_when_all_that_is_compared_has_held_out_answers(tmp_path: Path) -> None:
    url, config = f"sqlite:///{tmp_path}/s.db", tiny_config(TRIALS, POPULATION)
    assert run(url, config)
    setup, storage = tiny_setup(config), open_storage(url)
    answers, done = ScoreStore(storage), records(url)
    compared = [c.record for c in contenders(done, setup.genome)]
    for record in compared:
        assert not supervisor._is_judged(setup, answers, done)
        answers.write(record.id, HELD_OUT, answers.read(record.id, SEARCH))
    assert supervisor._is_judged(setup, answers, done)
    without = replace(setup, held_out=QuestionSet([], None))  # type: ignore[arg-type]
    answers.write(compared[0].id, HELD_OUT, {})
    assert supervisor._is_judged(without, answers, done)


# Idle workers


def test_an_idle_worker_scores_candidates_and_each_once(undisturbed: dict[Slot, object]) -> None:
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


def test_a_worker_that_waits_for_the_others_last_place_makes_itself_useful(
    database: str, undisturbed: dict[Slot, object]
) -> None:
    """Every trial so far took a thousand seconds, so that there is time."""
    config = tiny_config(TRIALS, POPULATION)
    assert not run(database, config, deadline=0.0)
    trials, _, _ = two(database)
    storage, study_id = trials.database, trials.study._study_id
    other = Claims(storage, study_id, Workers(storage, study_id).register("cpu"))
    setup = tiny_setup(config)
    seconds = {"seconds": {"score": 1000.0}}
    for b in setup.genome.baselines():
        attributes = {"baseline": b.name, "kind": b.kind}
        trial_id = other.start(f"baseline {b.name}", b.params, setup.rules.bounds, attributes)
        other.finish(trial_id, 0.1, {}, seconds, {})
    for place, (params, value) in sorted(undisturbed.items()):  # type: ignore[misc]
        if place.generation < 2:
            what = place.name
            trial_id = other.start(what, params, setup.rules.bounds, place.attributes)
            if place != (1, POPULATION - 1):
                other.finish(trial_id, value, {}, seconds, {})
    last, best = trial_id, max(trials.all(), key=lambda r: r.value or 0.0)
    while not ScoreStore(storage).read(best.id, HELD_OUT):
        assert not run(database, config, deadline=time.monotonic() + 2)
    candidates = [r.attributes[CANDIDATE] for r in records(database) if r.kind == CANDIDATE]
    assert candidates == ["CMA mean before generation 1", "mean of the top 1 before generation 1"]
    other.finish(last, undisturbed[Slot(1, POPULATION - 1)][1], {}, seconds, {})  # type: ignore[index]
    assert run(database, config)
    assert evaluations(database) == undisturbed


# Bad input


def test_more_workers_than_gpus_are_refused() -> None:
    there = torch.cuda.device_count()
    gpu = replace(CHOICE, device="cuda")
    with pytest.raises(ConfigError, match=f"--workers {there + 1}: .* here are {there}"):
        gpus_for(gpu, there + 1)
    with pytest.raises(ConfigError, match="cuda:0 is one GPU"):
        gpus_for(replace(CHOICE, device="cuda:0"), 1)
    assert gpus_for(CHOICE, 3) == [None] * 3


def test_of_two_workers_that_begin_a_study_differently_one_is_refused(database: str) -> None:
    storage = open_storage(database)
    enter_study(tiny_setup(tiny_config(TRIALS, POPULATION)), storage, CHOICE)
    enter_study(tiny_setup(tiny_config(TRIALS, POPULATION)), storage, CHOICE)
    with pytest.raises(StudyMismatch, match="seed: 0 stored, 1 now"):
        enter_study(tiny_setup(tiny_config(TRIALS, POPULATION, seed=1)), storage, CHOICE)


def test_a_study_without_trials_takes_the_population_of_those_who_begin_it(database: str) -> None:
    setup, storage = (
        tiny_setup(tiny_config(TRIALS, None, fit_population=True)),
        open_storage(database),
    )
    assert [make_study(setup, storage, CHOICE, n)[1] for n in (1, 8, 4)] == [10, 16, 12]
    _, population, _ = enter_study(setup, storage, CHOICE, 8)
    assert population == 16
    assert [make_study(setup, storage, CHOICE, n)[1] for n in (1, 4)] == [16, 16]


def test_the_population_suits_the_workers_where_the_config_lets_it() -> None:
    fits = tiny_setup(tiny_config(TRIALS, None, fit_population=True))
    assert [fits.rules.population(n) for n in (1, 4, 8)] == [10, 12, 16]
    assert tiny_setup(tiny_config(TRIALS, None)).rules.population(8) == 10
    assert tiny_setup(tiny_config(TRIALS, None).of_trials(400)).rules.population() == 20


def test_filters_that_match_nothing_are_refused_where_a_study_begins(database: str) -> None:
    """One that has begun with them goes on: without them it would be another."""
    config = tiny_config(TRIALS, POPULATION)
    filters = {"genome": config.genome.model_copy(update={"filters": ("mlp", "self_atn")})}
    setup = tiny_setup(config.model_copy(update=filters))
    layout = [SimpleNamespace(name="layers.0.mlp"), SimpleNamespace(name="layers.0.self_attn")]
    setup = replace(setup, sources=SimpleNamespace(layout=layout))  # type: ignore[arg-type]
    storage = open_storage(database)
    with pytest.raises(ConfigError, match=r"self_atn is in no tensor's name$"):
        make_study(setup, storage, CHOICE)
    with pytest.raises(StorageError, match="no study tiny"):
        find_study(storage, NAME)
    enter_study(tiny_setup(config), storage, CHOICE)
    make_study(setup, storage, CHOICE)


def test_a_start_that_is_not_there_is_told_with_those_that_are(database: str) -> None:
    storage = open_storage(database)
    create_study(storage, "other")
    setup = tiny_setup(tiny_config(TRIALS, POPULATION, start_from="gone"))
    with pytest.raises(StorageError, match=r"no study gone in .*; its studies are other$"):
        enter_study(setup, storage, CHOICE)


def test_a_wrong_password_is_told_at_once(guarded_server: Server) -> None:
    open_storage(guarded_server.url)
    with pytest.raises(StorageError, match="password authentication failed") as caught:
        open_storage(guarded_server.url.replace(":right@", ":wrong-one@"))
    assert "wrong-one" not in str(caught.value)


def test_a_read_only_database_is_told_at_once(server: Server) -> None:
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


def test_a_full_disk_is_waited_for_and_then_told(tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    trials, mine, _ = two(url)
    trials.database.retry_policy = RetryPolicy(0.5)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OperationalError, match=r"disk|full") as caught:
            fill(mine)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert is_transient(caught.value)
    mine.acquire("and goes on when there is room")


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
    ("environment", "asked", "stored"),
    [("", None, "1"), ("3", None, "3"), ("3,2", None, "3"), ("many", None, "1"), ("3", 2, "2")],
)
def test_a_study_stores_its_threads_when_it_begins_and_keeps_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: None,
    environment: str,
    asked: int | None,
    stored: str,
) -> None:
    url, setup = f"sqlite:///{tmp_path}/s.db", tiny_setup(tiny_config(TRIALS, POPULATION))
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    storage = open_storage(url)
    enter_study(setup, storage, with_threads(asked), 5)
    assert stored_threads(url) == stored
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    torch.set_num_threads(5)
    joined = enter_study(setup, storage, with_threads(None))[0]
    choice = as_stored(with_threads(None), joined.study)
    assert (choice.threads, torch.get_num_threads()) == (int(stored), int(stored))
    assert choice.signature.endswith(f", {stored} threads")
    with pytest.raises(StudyMismatch, match=rf"engine.threads: {stored} stored, 6 now"):
        enter_study(setup, storage, with_threads(6))
    storage.engine.dispose()


def test_a_study_that_began_without_threads_continues_with_those_of_each_run(
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
        assert as_stored(with_threads(number), trials.study).threads == number
        assert torch.get_num_threads() == (number or 2)
    storage.engine.dispose()
    assert run(url, config)
    assert stored_threads(url) is None


def test_a_gpu_stores_no_threads(tmp_path: Path) -> None:
    setup, storage = (
        tiny_setup(tiny_config(TRIALS, POPULATION)),
        open_storage(f"sqlite:///{tmp_path}/s.db"),
    )
    enter_study(setup, storage, replace(with_threads(4), device="cuda"))
    assert stored_threads(storage.url) is None
    storage.engine.dispose()
