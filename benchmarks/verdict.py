"""How often the verdict's intervals hold and how often it finds a winner, in simulated studies.

    python -m benchmarks.verdict [--studies 4000]

Models answer two tasks, weighted 0.875 and 0.125, right or wrong, with a true share of right
answers each; what makes a question easy is shared, so that two of them differ on about a third of
the questions. Four candidates meet four references; the candidate with the highest score on these
questions is chosen, as a study chooses its final merge.

S: simulated studies, P: pairs of a candidate and a reference, Q: questions.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tests.support.simulated_verdicts import _AT_ONCE, PAIRS, simulated

Floats = NDArray[np.float64]


def row(shares: Sequence[float], counts: Sequence[int], studies: int) -> str:
    """Shares of studies: one interval holds, all of a reference hold, a winner over any and over
    every reference, and the latter without the correction."""
    truth = np.array([shares[c] - shares[r] for c, r in PAIRS])
    hits: list[Floats] = []
    for seed in range(-(-studies // _AT_ONCE)):
        observed, errors, margins = simulated(seed, shares, _AT_ONCE, counts, PAIRS)
        one, _, alone = simulated(seed, shares[3:5], _AT_ONCE, counts, [(0, 1)])
        best = observed.reshape(-1, 4, 4)[:, :, 0].argmax(axis=1)
        chosen = np.arange(len(best)), best
        lower = (observed - margins).reshape(-1, 4, 4)[chosen]
        plain = (observed - 1.96 * errors).reshape(-1, 4, 4)[chosen]
        hits.append(
            np.array(
                [
                    (np.abs(one - (shares[3] - shares[4])) <= alone).mean(),
                    (np.abs(observed - truth) <= margins).reshape(-1, 4, 4).all(axis=1).mean(),
                    (lower > 0).any(axis=1).mean(),
                    (lower > 0).all(axis=1).mean(),
                    (plain > 0).all(axis=1).mean(),
                ]
            )
        )
    cells = [f"{100 * value:.1f}%" for value in np.mean(hits, axis=0)]
    return f"{counts[0]} + {counts[1]} | {' | '.join(cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=4000)
    given = parser.parse_args()
    truths = {
        "all equal": [0.70] * 8,
        "candidates equal the best reference": [0.70] * 4 + [0.70, 0.66, 0.62, 0.50],
        "candidates 3 points better": [0.73] * 4 + [0.70] * 4,
        "candidates 6 points better": [0.76] * 4 + [0.70] * 4,
    }
    print("| truth | held-out questions | one interval holds | all 4 of a reference | ", end="")
    print("better than any | than every | than every, uncorrected |")
    print("|---|---|---|---|---|---|---|")
    for name, shares in truths.items():
        for counts in ((20, 20), (100, 40), (300, 100), (1100, 190)):
            print(f"| {name} | {row(shares, counts, given.studies)} |", flush=True)


if __name__ == "__main__":
    main()
