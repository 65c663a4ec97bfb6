"""vLLM on a CPU: its answers, and its errors."""

import dataclasses
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest
import torch
import yaml
from pydantic import BaseModel, Field, ValidationError
from safetensors.torch import load_file, save_file

from objectives import errors
from objectives.engines.engine import Answer, Prompt
from objectives.engines.transformers import TransformersEngine
from objectives.engines.vllm import child as vllm_child
from objectives.engines.vllm.engine import VllmEngine
from objectives.engines.vllm.server import _described
from objectives.errors import EngineDeadError, EngineError, SourceError
from objectives.export.export import export
from objectives.merge.recipe import Hop, MergeRecipe, PathRecipe, Recipe
from objectives.models.sources import Sources
from study.cli.interrupts import Interrupted, Interrupts
from study.config.load import load_config
from study.config.study import StudyConfig
from study.setup.engine import EngineChoice, choose_engine
from study.setup.setup import Setup, build
from tests.support.architectures import make
from tests.support.architectures import recipe_of as recipe_of_two
from tests.support.broken_extension import EXHAUSTED, HUNG, MISSING, RAISED, RENAMED, RESHAPED
from tests.support.lm_eval_files import study_text, write_tasks
from tests.support.models import WORDS, MakeModel, point
from tests.support.paths import DEMO, ROOT

if importlib.util.find_spec("vllm") is None:
    pytest.skip("VLLM TESTS DID NOT RUN: vllm is not installed", allow_module_level=True)


def config_with(**engine: object) -> StudyConfig:
    config = load_config(DEMO / "study.yaml")
    return config.model_copy(update={"engine": config.engine.model_copy(update=engine)})


@pytest.fixture(scope="module")
def demo() -> Setup:
    return build(config_with(), check_values=False)


def started(setup: Setup, **engine: object) -> VllmEngine:
    engine = choose_engine(config_with(**engine), "vllm").start(setup.sources, setup.longest)
    assert isinstance(engine, VllmEngine)
    return engine


@pytest.fixture(scope="module")
def vllm(demo: Setup) -> Iterator[VllmEngine]:
    engine = started(demo)
    yield engine
    engine.close()


def questions(setup: Setup) -> list[Prompt]:
    """Return some prompts of each task, with answers of one and of seven tokens."""
    return [prompt for prompts in setup.search.prompts.values() for prompt in prompts[:40]]


def recipe(setup: Setup, seed: int) -> MergeRecipe:
    return setup.genome.recipe(point(setup.genome, seed))


def same(ours: list[Answer], theirs: list[Answer], within: float = 1e-4) -> bool:
    return all(
        a.tokens == b.tokens and a.logprobs == pytest.approx(b.logprobs, abs=within)
        for a, b in zip(ours, theirs, strict=True)
    )


def test_a_merge_overwrites_the_previous_one_completely(demo: Setup, vllm: VllmEngine) -> None:
    asked = questions(demo)
    vllm.load(recipe(demo, 1))
    first = vllm.answer(asked)
    vllm.load(recipe(demo, 2))
    second = vllm.answer(asked)
    assert not same(first, second)
    vllm.load(recipe(demo, 1))
    assert vllm.answer(asked) == first
    vllm.load(recipe(demo, 2))
    assert vllm.answer(asked) == second


def test_answers_are_in_the_order_of_the_prompts(demo: Setup, vllm: VllmEngine) -> None:
    """The prompts fill several steps, alternate between two tasks, and one is asked twice."""
    vllm.load(recipe(demo, 1))
    first, second = demo.search.prompts.values()
    asked = [prompt for pair in zip(first, second, strict=False) for prompt in pair]
    asked += [*first[len(second) :], asked[0]]
    answers = vllm.answer(asked)
    assert same(vllm.answer(asked[::-1]), answers[::-1])
    assert [len(a.logprobs) for a in answers] == [len(set(p.options)) for p in asked]


def test_answers_equal_those_of_the_exported_folder(
    demo: Setup, vllm: VllmEngine, tmp_path: Path
) -> None:
    merged = recipe(demo, 3)
    references = {label: str(c.folder) for label, c in demo.sources.checkpoints.items()}
    folder = export(merged, demo.sources, references, tmp_path / "merged", "card")
    fresh = choose_engine(config_with(), "vllm").start(
        Sources({"merged": folder}, "merged"), demo.longest
    )
    fresh.load(MergeRecipe.single("merged", 32))
    vllm.load(merged)
    asked = questions(demo)
    assert vllm.answer(asked) == fresh.answer(asked)
    fresh.close()


def test_vllm_and_transformers_agree(demo: Setup, vllm: VllmEngine) -> None:
    transformers = choose_engine(config_with(), "transformers").start(demo.sources, demo.longest)
    for seed in (4, 5):
        for engine in (vllm, transformers):
            engine.load(recipe(demo, seed))
        asked = questions(demo)
        assert same(vllm.answer(asked), transformers.answer(asked), 1e-3)
    assert demo.search.evaluate(vllm).value == pytest.approx(
        demo.search.evaluate(transformers).value
    )


def test_answers_of_a_nan_model_are_marked_as_not_finite(demo: Setup, vllm: VllmEngine) -> None:
    fields = recipe(demo, 1).to_dict() | {"method": "task_arithmetic", "scale": 1e38}
    fields["values"] = {"weight": fields["values"]["weight"]}
    vllm.load(MergeRecipe.from_dict(fields))
    asked = questions(demo)
    assert not any(answer.finite for answer in vllm.answer(asked))
    vllm.load(recipe(demo, 1))
    assert all(answer.finite for answer in vllm.answer(asked))


@pytest.fixture(scope="module")
def broken(demo: Setup) -> Iterator[VllmEngine]:
    """An engine that fails in a way that the recipe's mask seed selects; 0 is no failure."""
    choice = choose_engine(config_with(), "vllm")
    engine = choice.start(demo.sources, demo.longest)
    assert isinstance(engine, VllmEngine)
    engine.close()
    extension = "tests.support.broken_extension.BrokenExtension"
    engine._settings = dataclasses.replace(engine._settings, extension=extension)
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (MISSING, "WeightError", "the merge lacks 1 tensors; the first is lm_head.weight"),
        pytest.param(
            RENAMED, "WeightError", "the merge cannot be loaded: .*lm_head", marks=pytest.mark.slow
        ),
        pytest.param(
            RESHAPED, "WeightError", "the merge cannot be loaded: ", marks=pytest.mark.slow
        ),
        pytest.param(RAISED, "EngineError", "OSError: the disk is gone", marks=pytest.mark.slow),
        (EXHAUSTED, "EngineMemoryError", "out of memory: tried to allocate 20 GiB$"),
        pytest.param(
            HUNG,
            "EngineTimeoutError",
            "vLLM did not load within 20 s",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_error_is_reported_and_the_engine_restarts(
    demo: Setup, broken: VllmEngine, fault: int, kind: str, message: str
) -> None:
    broken._deadline = 20.0
    good = recipe(demo, 1)
    with pytest.raises(getattr(errors, kind), match=message) as raised:
        broken.load(dataclasses.replace(good, mask_seed=fault))
    assert type(raised.value).__name__ == kind
    assert broken.pid is None
    with pytest.raises(EngineDeadError, match="a merge must be loaded first"):
        broken.answer(questions(demo)[:3])


def test_a_killed_engine_restarts(demo: Setup, vllm: VllmEngine) -> None:
    good, asked = recipe(demo, 1), questions(demo)[:10]
    vllm.load(good)
    before = vllm.answer(asked)
    assert vllm.pid is not None
    os.kill(vllm.pid, signal.SIGKILL)
    with pytest.raises(EngineDeadError, match="killed by SIGKILL"):
        vllm.answer(asked)
    vllm.load(good)
    assert vllm.answer(asked) == before


@pytest.mark.slow
def test_tensor_parallel_processes_give_equal_answers(demo: Setup, vllm: VllmEngine) -> None:
    good, asked = recipe(demo, 1), questions(demo)
    vllm.load(good)
    alone = vllm.answer(asked)
    pair = started(demo, tensor_parallel_size=2)
    group = pair.pid
    pair.load(good)
    assert same(pair.answer(asked), alone, 1e-3)
    pair.close()
    assert group is not None
    assert not alive(group)


@pytest.mark.gpu
def test_two_gpus_answer_like_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    setup = build(config_with(dtype="float32"), check_values=False)
    good, asked = recipe(setup, 1), questions(setup)
    answers = []
    for gpus in (1, 2):
        engine = started(setup, dtype="float32", tensor_parallel_size=gpus)
        engine.load(good)
        answers.append(engine.answer(asked))
        engine.close()
    assert same(answers[0], answers[1], 1e-3)


def alive(group: int) -> bool:
    """Return whether any process of the group is running."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_vllms_processes_end_when_the_run_is_killed(tmp_path: Path) -> None:
    data = yaml.safe_load((DEMO / "study.yaml").read_text()) | {"limit": 20}
    data["study"]["held_out"] = 0
    genome = data["genome"]
    genome["models"] = [str(DEMO / model) for model in genome["models"]]
    genome["base_model"] = str(DEMO / genome["base_model"])
    for task in data["tasks"]:
        task["data"] = str(DEMO / task["data"])
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(data))
    words = [sys.executable, "-m", "study.run", "small.yaml", "--engine", "vllm", "--trials", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    doomed = subprocess.Popen(
        words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert doomed.stderr is not None
    for line in doomed.stderr:
        if "vLLM started" in line:
            break
    children = Path(f"/proc/{doomed.pid}/task/{doomed.pid}/children").read_text().split()
    doomed.kill()
    doomed.wait()
    until = time.monotonic() + 60
    while any(alive(int(child)) for child in children if is_group(int(child))):
        assert time.monotonic() < until, "vLLM outlived the run"
        time.sleep(0.2)
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "engine vllm on cpu" in done.stderr
    assert "report: runs/" in done.stdout


def test_a_prestarted_process_is_used(
    demo: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM caches the result of inspecting model classes in another process; here there is none."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    vllm_child.prestart_if_likely("vllm", None, config_with().engine.eager)
    [(_, child, _)] = vllm_child._prestarted
    choice = choose_engine(config_with(), "vllm")
    choice.prestart()
    engine = choice.start(demo.sources, demo.longest)
    assert isinstance(engine, VllmEngine)
    assert engine.pid == child.process.pid
    engine.load(recipe(demo, 1))
    assert all(answer.finite for answer in engine.answer(questions(demo)))
    engine.close()
    assert not vllm_child._prestarted
    assert not (tmp_path / "modelinfos").exists()


def test_an_unused_prestarted_process_ends_with_the_command() -> None:
    code = (
        "from objectives.engines.vllm import child as vllm_child\n"
        "vllm_child.prestart({})\n"
        "print(vllm_child._prestarted[0][1].process.pid)\n"
        "raise SystemExit(2)\n"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert not Path(f"/proc/{int(done.stdout)}").exists()


def is_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"kind": "vllm", "device": "cuda:1"}, "choose a GPU with CUDA_VISIBLE"),
        ({"kind": "vllm", "device": "cuda"}, "no GPU was found"),
        ({"kind": "other"}, "unknown kind other"),
    ],
)
def test_an_impossible_engine_is_refused(engine: dict[str, str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        choose_engine(config_with(**engine))


def test_a_missing_source_is_reported(make_model: MakeModel, tmp_path: Path) -> None:
    folders = {name: make_model(tmp_path / name, i) for i, name in enumerate(("a", "b"))}
    sources = Sources(folders, "a")
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(
        SourceError, match=r"b: .* has no config.json; choose the folder of a model"
    ):
        choose_engine(config_with(), "vllm").start(sources, 40)


def test_an_error_of_vllm_is_reported_with_its_message(demo: Setup) -> None:
    choice = choose_engine(config_with(), "vllm")
    settings = choice.vllm_settings(demo.sources, demo.longest)
    with pytest.raises(EngineError, match=r"^vLLM rejected .*: max_num_batched_tokens \(4096\)"):
        VllmEngine(dataclasses.replace(settings, sequences=5000), 60.0, 300.0)


def test_a_validation_error_of_vllm_is_reported_with_the_field() -> None:
    class Given(BaseModel):
        blocks: int = Field(gt=0)

    with pytest.raises(ValidationError) as caught:
        Given(blocks=-1)
    expected = "vLLM rejected its arguments: blocks: Input should be greater than 0"
    assert _described(caught.value) == ("EngineError", expected)


def test_a_signal_during_the_start_ends_vllms_process(demo: Setup) -> None:
    """The process is stopped, so that it is certainly still starting."""
    vllm_child.prestart_if_likely("vllm", None, True)
    [(_, child, _)] = vllm_child._prestarted
    assert child.process.pid is not None
    os.kill(child.process.pid, signal.SIGSTOP)
    choice = choose_engine(config_with(), "vllm")
    with Interrupts(signal.SIGTERM):
        Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Interrupted):
            choice.start(demo.sources, demo.longest)
    assert child.process.exitcode == -signal.SIGKILL
    assert not vllm_child._prestarted


def test_auto_without_a_gpu_is_transformers() -> None:
    choice = choose_engine(config_with())
    assert (choice.kind, choice.device) == ("transformers", "cpu")
    assert isinstance(choice, EngineChoice)


def test_the_signature_contains_the_versions() -> None:
    expected = choose_engine(config_with(tensor_parallel_size=2, eager=False), "vllm").signature
    form = r"vllm 0\.\d+\S* on 2 x cpu with \S+, float32, compiled, 4096 tokens a batch, torch .+"
    assert re.fullmatch(form + r", \d+ threads", expected)
    assert choose_engine(config_with(), "transformers").signature.startswith("transformers 5.")


def test_too_many_options_are_refused(demo: Setup, vllm: VllmEngine) -> None:
    many = Prompt(tuple(range(5, 20)), 0, 1, tuple(range(200)))
    vllm.load(recipe(demo, 1))
    with pytest.raises(
        EngineError, match="200 options; vLLM returns at most 128 log-probabilities"
    ):
        vllm.answer([many])


def test_another_architecture_with_a_union_vocabulary_answers_like_transformers(
    tmp_path: Path,
) -> None:
    """Qwen2 with tied heads and an additional token in one model, merged by mergekit's method."""
    words = [*WORDS, "more"]
    folders = {
        "base": make(tmp_path / "base", "qwen2", 0, hidden=64),
        "x": make(tmp_path / "x", "qwen2", 1, hidden=64, words=words),
        "y": make(tmp_path / "y", "qwen2", 2, hidden=64),
    }
    sources = Sources(folders, "base", "union")
    merged = recipe_of_two("della")
    asked = [Prompt((0, 5, 7, i), 2, 2, tuple(range(len(words)))) for i in range(len(words))]
    reference = TransformersEngine(sources)
    reference.load(merged)
    engine = choose_engine(config_with(), "vllm").start(sources, 16)
    try:
        engine.load(merged)
        assert same(engine.answer(asked), reference.answer(asked))
    finally:
        engine.close()


def test_tasks_of_lm_eval_get_the_same_answers_as_from_transformers(tmp_path: Path) -> None:
    """Continuations, texts with stops, and prompts as long as the models' context."""
    tasks = write_tasks(tmp_path / "tasks", 8)
    searched = {"name": "searched", "metric": "exact_match,digit"}
    (tmp_path / "study.yaml").write_text(study_text("likely", searched, "long"))
    setup = build(load_config(tmp_path / "study.yaml", [tasks]), check_values=False)
    asked = [prompt for prompts in setup.search.prompts.values() for prompt in prompts]
    context = setup.sources.reference.config["max_position_embeddings"]
    assert max(len(prompt.tokens) for prompt in asked) == context
    reference = choose_engine(setup.config, "transformers").start(setup.sources, setup.longest)
    reference.load(recipe(setup, 1))
    expected = reference.answer(asked)
    stopped = [a.tokens[-1] in p.stops for p, a in zip(asked, expected, strict=True) if p.stops]
    assert any(stopped)
    engine = choose_engine(setup.config, "vllm").start(setup.sources, setup.longest)
    try:
        engine.load(recipe(setup, 1))
        assert same(engine.answer(asked), expected)
    finally:
        engine.close()


@pytest.mark.parametrize(("kind", "device"), [("transformers", "cpu"), ("vllm", "cuda")])
def test_an_unneeded_prestarted_process_is_discarded(kind: str, device: str) -> None:
    """The process is started before the engine or the device is known."""
    vllm_child.prestart_if_likely("vllm", device, True)
    [(_, early, _)] = vllm_child._prestarted
    choose_engine(config_with(), kind).prestart()
    assert early.process.exitcode is not None
    assert len(vllm_child._prestarted) == (kind == "vllm")
    vllm_child.discard()
    assert not vllm_child._prestarted


def test_auto_prestarts_no_process_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vllm_child, "_GPU", tmp_path / "none")
    vllm_child.prestart_if_likely("auto", None, True)
    vllm_child.prestart_if_likely("transformers", "cuda", True)
    assert not vllm_child._prestarted


def test_nan_in_one_question_does_not_spread_to_others(demo: Setup, tmp_path: Path) -> None:
    """The KV cache has few blocks, which one question after another uses."""
    asked = [p for p in questions(demo) if p.max_tokens == 1]
    counts = Counter(token for prompt in asked for token in set(prompt.tokens))
    token = max((t for t in counts if counts[t] <= 60), key=lambda t: counts[t])
    shutil.copytree(DEMO / "models" / "numeric", tmp_path / "m")
    weights = {n: t.float() for n, t in load_file(tmp_path / "m" / "model.safetensors").items()}
    weights["model.embed_tokens.weight"][token] = 3.4e38
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    sources = Sources({"m": tmp_path / "m"}, "m")
    choice = dataclasses.replace(choose_engine(config_with(), "vllm"), batch_tokens=256)
    engine = choice.start(sources, demo.longest)
    engine.load(MergeRecipe.single("m", sources.num_layers))
    broken = [not answer.finite for answer in engine.answer(asked)]
    assert broken == [token in prompt.tokens for prompt in asked]
    healthy = [prompt for prompt in asked if token not in prompt.tokens]
    assert all(answer.finite for answer in engine.answer(healthy))
    engine.close()


def test_end_tokens_and_threads_match_transformers(demo: Setup, tmp_path: Path) -> None:
    """Tokens with a comma end answers, a pad token has no row, and two threads are stored."""
    folders = {n: shutil.copytree(DEMO / "models" / n, tmp_path / n) for n in ("base", "numeric")}
    vocabulary = demo.sources.vocabulary.tokenizer.get_vocab()
    ends = [2, *(i for token, i in vocabulary.items() if re.fullmatch(r"\W?\d+,", token))]
    for folder in folders.values():
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 201}))
    sources = Sources(folders, "base")
    asked = [p for p in questions(demo) if p.max_tokens > 1]
    answers = {}
    for kind in ("transformers", "vllm"):
        choice = dataclasses.replace(choose_engine(config_with(), kind), threads=2)
        engine = choice.start(sources, demo.longest)
        try:
            engine.load(MergeRecipe.single("numeric", sources.num_layers))
            answers[kind] = engine.answer(asked)
            if isinstance(engine, VllmEngine):
                assert engine.pid is not None
                threads = len(list(Path(f"/proc/{engine.pid}/task").iterdir()))
        finally:
            engine.close()
    assert same(answers["vllm"], answers["transformers"], 1e-3)
    assert all(answer.tokens[-1] in ends for answer in answers["vllm"] if len(answer.tokens) < 7)
    assert {len(answer.tokens) for answer in answers["vllm"]} == {1}
    assert threads > 1


def test_paths_are_answered_as_by_transformers(tmp_path: Path) -> None:
    """A shorter and a longer path after each other, and a whole model."""
    data = yaml.safe_load((DEMO / "study.yaml").read_text())
    models = [str((DEMO / model).resolve()) for model in data["genome"]["models"]]
    data["genome"] = {"kind": "layers", "models": models, "max_hops": 36}
    for task in data["tasks"]:
        task["data"] = str((DEMO / task["data"]).resolve())
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(data))
    setup = build(load_config(tmp_path / "study.yaml"), check_values=False)
    choices = [
        dataclasses.replace(choose_engine(setup.config, kind), max_hops=36)
        for kind in ("vllm", "transformers")
    ]
    engines = [choice.start(setup.sources, setup.longest) for choice in choices]
    rng = random.Random(3)
    scaled = tuple(
        Hop(rng.choice(setup.genome.models), i, rng.uniform(0.6, 1.3)) for i in range(32)
    )
    repeated = (*scaled[:20], *scaled[16:32])
    recipes: list[Recipe] = [
        PathRecipe(scaled[:9] + scaled[11:], "numeric"),
        PathRecipe(repeated, "numeric"),
        MergeRecipe.single("relations", 32),
    ]
    try:
        for path in recipes:
            for engine in engines:
                engine.load(path)
            ours, theirs = (engine.answer(questions(setup)) for engine in engines)
            assert [a.tokens for a in ours] == [a.tokens for a in theirs]
            for one, other in zip(ours, theirs, strict=True):
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
    finally:
        for engine in engines:
            engine.close()
