"""Convert the gradient with respect to a recipe into that with respect to a genome's parameters.

`MergeGenome.decode` is the function that is differentiated: it drops signs, clamps densities and
bounds DELLA's epsilon by the density. K: knots, M: models, F: filters and the rest, as in
genome.py.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from study.search.genome import MAX_EPSILON, SCALE, MergeGenome

Doubles = NDArray[np.float64]


def genome_gradient(
    genome: MergeGenome,
    params: Mapping[str, float],
    values: Mapping[str, Doubles],
    shared: Mapping[str, Doubles] | None = None,
    scale: float = 0.0,
) -> dict[str, float]:
    """Return the derivative of a loss with respect to each parameter of the genome, at `params`.

    The other arguments are derivatives with respect to the recipe: `values`, float64 of shape
    [K, M, F], by per-model parameter; `shared`, [K, F], by shared parameter; and `scale`, with
    respect to its scale (`lambda`). At the end of a clamp and at the kink of an absolute value, the
    one-sided derivative inside the bounds is used, so that a density of 1 can decrease and a weight
    of 0 can increase.
    """
    values_KMF = _add_epsilon_to_density(genome, params, values)
    flat: dict[str, Iterator[float]] = {}
    for name, array in (*values_KMF.items(), *(shared or {}).items()):
        flat[name] = iter(np.asarray(array, np.float64).ravel().tolist())
    gradient = {}
    for name, value in params.items():
        if name == SCALE:
            gradient[name] = scale
        elif name in genome.space:
            parameter = name.split("/")[-1]
            decoded = genome.read(parameter, value) if parameter in values else abs(value)
            gradient[name] = next(flat[parameter]) * _slope(value, decoded)
    return gradient


def _slope(value: float, decoded: float) -> float:
    """Return the derivative of the decoded value `decoded` with respect to the parameter's `value`.

    It is 1, or -1 if the sign is dropped, or 0 if the value is clamped.
    """
    return float(decoded == value) or -float(decoded == -value)


def _add_epsilon_to_density(
    genome: MergeGenome, params: Mapping[str, float], values: Mapping[str, Doubles]
) -> Mapping[str, Doubles]:
    """Add the derivative of each epsilon that is limited by its density to that of the density."""
    if "epsilon" not in values or "density" not in values:
        return values
    recipe = genome.recipe(params)
    density_KMF, epsilon_KMF = (np.array(recipe.values[n]) for n in ("density", "epsilon"))
    rising, falling = MAX_EPSILON * density_KMF, MAX_EPSILON * (1 - density_KMF)
    limited_KMF = epsilon_KMF >= np.minimum(rising, falling)
    slope_KMF = np.where(limited_KMF, np.where(rising < falling, MAX_EPSILON, -MAX_EPSILON), 0.0)
    return {
        **values,
        "epsilon": np.where(limited_KMF, 0.0, values["epsilon"]),
        "density": values["density"] + slope_KMF * values["epsilon"],
    }
