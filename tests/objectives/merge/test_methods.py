"""Merge methods are compared with mergekit's on the same tensors, with the same masks."""

from collections.abc import Sequence

import mergekit.sparsify
import pytest
import torch
from mergekit.merge_methods import merge_tensors
from torch import Tensor

from objectives.merge import masks, methods

DENSITIES = (0.3, 0.75, 1.0)
WEIGHTS = [(0.5, 0.7, 1.0), (0.9, -0.4, 0.2), (0.0, 1.0, 0.0)]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def tensors(request: pytest.FixtureRequest) -> list[Tensor]:
    """Return a base and three finetunes in float32, with values that the dtype can represent."""
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(48, 20, generator=generator)
    tensors = [base] + [base + 0.1 * torch.randn(48, 20, generator=generator) for _ in range(3)]
    return [tensor.to(request.param).float() for tensor in tensors]


def _kept(densities: Sequence[float], shape: torch.Size) -> list[Tensor]:
    return [
        masks.draws(masks.key(0, f"model {i}", "t"), shape) < masks.threshold(density)
        for i, density in enumerate(densities)
    ]


def _mergekit(method: str, tensors: list[Tensor], **parameters: object) -> Tensor:
    merged: Tensor = merge_tensors(tensors, method, parameters=parameters, base_index=0)
    return merged


@pytest.mark.parametrize("normalize", [True, False])
def test_linear_equals_mergekit(tensors: list[Tensor], normalize: bool) -> None:
    weights = [0.2, 0.5, 0.9]
    theirs = merge_tensors(
        tensors[1:], "linear", parameters={"weight": weights, "normalize": normalize}
    )
    assert torch.allclose(methods.linear(tensors[1:], weights, normalize), theirs, atol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_task_arithmetic_equals_mergekit(
    tensors: list[Tensor], weights: tuple[float, ...], normalize: bool, scale: float
) -> None:
    base, *models = tensors
    deltas = [model - base for model in models]
    ours = methods.task_arithmetic(base, deltas, weights, normalize, scale)
    parameters = {"weight": list(weights), "normalize": normalize, "lambda": scale}
    theirs = _mergekit("task_arithmetic", tensors, **parameters)
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", ["dare_ties", "dare_linear"])
def test_dare_equals_mergekit_with_the_same_masks(
    tensors: list[Tensor],
    weights: tuple[float, ...],
    normalize: bool,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, *models = tensors
    kept = _kept(DENSITIES, base.shape)
    deltas = [
        d if p >= 1 else methods.drop_and_rescale(d, k)
        for d, p, k in zip([m - base for m in models], DENSITIES, kept, strict=True)
    ]
    combine = methods.ties if method == "dare_ties" else methods.task_arithmetic
    ours = combine(base, deltas, weights, normalize, 0.8)
    drawn = iter([k.float() for k, p in zip(kept, DENSITIES, strict=True) if p < 1])
    monkeypatch.setattr(mergekit.sparsify.torch, "bernoulli", lambda _: next(drawn))
    parameters = {
        "weight": list(weights),
        "density": list(DENSITIES),
        "normalize": normalize,
        "lambda": 0.8,
        "rescale": True,
    }
    theirs = _mergekit(method, tensors, **parameters)
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("normalize", [True, False])
def test_ties_equals_mergekit(
    weights: tuple[float, ...], normalize: bool, tensors: list[Tensor]
) -> None:
    generator = torch.Generator().manual_seed(6)
    base = tensors[0]
    models = [base + 0.1 * torch.randn(base.shape, generator=generator) for _ in range(3)]
    deltas = [methods.trim(m - base, p) for m, p in zip(models, DENSITIES, strict=True)]
    ours = methods.ties(base, deltas, weights, normalize)
    parameters = {
        "weight": list(weights),
        "density": list(DENSITIES),
        "normalize": normalize,
    }
    theirs = _mergekit("ties", [base, *models], **parameters)
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5])
def test_slerp_equals_mergekit(tensors: list[Tensor], t: float) -> None:
    theirs = merge_tensors(tensors[:2], "slerp", parameters={"t": t}, base_index=0)
    assert torch.allclose(methods.slerp(tensors[0], tensors[1], t), theirs, atol=1e-6)
    far = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(7))
    theirs = merge_tensors([tensors[0], far], "slerp", parameters={"t": t}, base_index=0)
    assert torch.allclose(methods.slerp(tensors[0], far, t), theirs, atol=1e-6)


def test_rescaling_restores_the_norm_and_leaves_an_empty_mask_empty() -> None:
    delta = torch.randn(400, generator=torch.Generator().manual_seed(1))
    kept = _kept([0.4], delta.shape)[0]
    assert methods.drop_and_rescale(delta, kept).abs().sum().item() == pytest.approx(
        delta.abs().sum().item(), rel=1e-5
    )
    none = torch.zeros_like(kept)
    assert not methods.drop_and_rescale(delta, none).any()


def test_trim_keeps_equal_magnitudes_together() -> None:
    delta = torch.tensor([3.0, -1.0, 1.0, 0.5])
    assert methods.trim(delta, 0.5).tolist() == [3.0, -1.0, 1.0, 0.0]
    assert methods.trim(delta, 0.01).tolist() == [3.0, 0.0, 0.0, 0.0]
    assert not methods.trim(delta, 0.0).any()
