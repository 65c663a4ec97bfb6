"""Format values for display."""

import math

HALF_INTERVAL = 1.96
"""Half the width of a 95% confidence interval, in standard errors."""


def duration(seconds: float) -> str:
    """Format a duration in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((i for i, (n, _) in enumerate(parts) if n), 3)
    return " ".join(f"{n} {unit}" for n, unit in parts[first : first + 2])


def score_text(value: float, error: float | None) -> str:
    """Format a score and half of its 95% confidence interval, from its standard error; the value
    alone if that is unknown."""
    if error is None or not math.isfinite(error):
        return f"{value:.3f}"
    return f"{value:.3f} ± {HALF_INTERVAL * error:.3f}"
