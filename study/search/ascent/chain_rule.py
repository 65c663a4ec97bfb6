"""From the derivative by a recipe's values to the derivative by a genome's parameters.

`Genome.decode` is the function that is differentiated: it drops signs, clamps densities and bounds
DELLA's epsilon by the density. K: knots, M: models, F: filters and the rest, as in genome.py.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from study.search.genome import NEARLY, SCALE, Genome

Doubles = NDArray[np.float64]


def genome_gradient(
    genome: Genome,
    params: Mapping[str, float],
    values: Mapping[str, Doubles],
    shared: Mapping[str, Doubles] | None = None,
    scale: float = 0.0,
) -> dict[str, float]:
    """Return the derivative of a loss by each parameter of the genome, at the point `params`.

    `values` maps a parameter of the models to the derivative by the recipe's values, float64 of
    shape [K, M, F]; `shared` maps a parameter that models share to one of shape [K, F]; `scale` is
    the derivative by the recipe's scale (`lambda`). At the ends of a clamp and at the kink of an
    absolute value the derivative is that of the side inside the bounds, so a density of 1 can fall
    and a weight of 0 can rise.
    """
    values_KMF = _bounded_by_density(genome, params, values)
    flat: dict[str, Iterator[float]] = {}
    for name, array in (*values_KMF.items(), *(shared or {}).items()):
        flat[name] = iter(np.asarray(array, np.float64).ravel().tolist())
    gradient = {}
    for name, value in params.items():
        if name == SCALE:
            gradient[name] = scale
        elif name in genome.space:
            parameter = name.split("/")[-1]
            read = genome.read(parameter, value) if parameter in values else abs(value)
            gradient[name] = next(flat[parameter]) * _slope(value, read)
    return gradient


def _slope(value: float, read: float) -> float:
    """The derivative of what `decode` takes a number for, which is the number, its negative, or
    the end of a clamp."""
    return float(read == value) or -float(read == -value)


def _bounded_by_density(
    genome: Genome, params: Mapping[str, float], values: Mapping[str, Doubles]
) -> Mapping[str, Doubles]:
    """Pass the derivative by an epsilon that its density bounds on to the density."""
    if "epsilon" not in values or "density" not in values:
        return values
    recipe = genome.recipe(params)
    density_KMF, epsilon_KMF = (np.array(recipe.values[n]) for n in ("density", "epsilon"))
    rising, falling = NEARLY * density_KMF, NEARLY * (1 - density_KMF)
    bound_KMF = epsilon_KMF >= np.minimum(rising, falling)
    slope_KMF = np.where(bound_KMF, np.where(rising < falling, NEARLY, -NEARLY), 0.0)
    return {
        **values,
        "epsilon": np.where(bound_KMF, 0.0, values["epsilon"]),
        "density": values["density"] + slope_KMF * values["epsilon"],
    }
