"""Check that a model can be merged with the reference."""

from collections.abc import Sequence

from objectives.errors import PositionsDiffer, SourceError

from .checkpoint import DTYPES, Checkpoint
from .layout import TensorInfo
from .model_config import POSITIONS, describe_differences, differences


def check_compatible(
    checkpoint: Checkpoint,
    reference: Checkpoint,
    layout: Sequence[TensorInfo],
    config_source: str | None,
) -> None:
    """Compare a model's config and tensors with the reference's. Raises SourceError.

    With a config source, models may differ in POSITIONS. The numbers of rows of the vocabulary may
    always differ.
    """
    _check_config(checkpoint, reference, config_source)
    for info in layout:
        name = checkpoint.stored_name(info.weight)
        if name is None:
            raise SourceError(f"{checkpoint.label}: tensor {info.name} is missing")
        if checkpoint.dtype(name) not in DTYPES:
            raise SourceError(
                f"{checkpoint.label}: tensor {name} has the dtype {checkpoint.dtype(name)}; "
                f"supported are {', '.join(DTYPES)}"
            )
        shape, axis = checkpoint.shape(name), info.weight.vocabulary_axis
        if without_axis(shape, axis) != without_axis(info.shape, axis):
            raise SourceError(
                f"{checkpoint.label} and {reference.label} cannot be merged: "
                f"tensor {info.name} has the shapes {list(shape)} and {list(info.shape)}"
            )


def _check_config(checkpoint: Checkpoint, reference: Checkpoint, config_source: str | None) -> None:
    both = f"{checkpoint.label} and {reference.label} cannot be merged"
    if checkpoint.architecture != reference.architecture:
        raise SourceError(
            f"{both}: architectures {checkpoint.architecture} and {reference.architecture}"
        )
    differing = differences(checkpoint.parsed, reference.parsed)
    resolvable = differing.keys() & POSITIONS
    others = {key: pair for key, pair in differing.items() if key not in resolvable}
    if others:
        raise SourceError(
            f"{both}: their config.json files differ in {describe_differences(others)}"
        )
    if resolvable and config_source is None:
        raise PositionsDiffer(
            f"{both}: their config.json files differ in {describe_differences(differing)}; if a "
            "merge is still meaningful, set genome.config_source to base or to the model whose "
            "values it should use"
        )


def vocabulary_size(checkpoint: Checkpoint, layout: Sequence[TensorInfo]) -> int:
    """Return the number of rows of a model's embedding and head. Raises SourceError."""
    sizes = {}
    for info in layout:
        axis, name = info.weight.vocabulary_axis, checkpoint.stored_name(info.weight)
        if axis is not None and name is not None:
            sizes[name] = checkpoint.shape(name)[axis]
    if len(set(sizes.values())) > 1:
        rows = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise SourceError(
            f"{checkpoint.label}: its embedding and head have different numbers of rows: {rows}"
        )
    return next(iter(sizes.values()), 0)


def without_axis(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    """Return a shape without one of its axes; None removes nothing."""
    return shape if axis is None else shape[:axis] + shape[axis + 1 :]
