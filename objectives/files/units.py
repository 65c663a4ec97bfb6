"""Format sizes and counts for display."""


def size_text(count: float) -> str:
    """Format a number of bytes in GB, or in MB below 0.1 GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def count_text(count: float) -> str:
    """Format a count with three digits, as `7.24 billion` or `1.6 million`."""
    for unit, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f}"
