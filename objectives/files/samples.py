"""Sample large data by evenly spaced windows, to detect changes without reading all of it."""

_SMALL = 1 << 20
_WINDOW = 4096


def windows(size: int, count: int) -> list[slice]:
    """Return the parts of `size` bytes that a digest covers.

    Data of at most 1 MiB is covered completely, by one slice; of larger data `count` windows of
    4 KiB are, or a few more.
    """
    if size <= _SMALL:
        return [slice(0, size)]
    last = size - _WINDOW
    return [slice(i, i + _WINDOW) for i in range(0, last + 1, last // (count - 1))]
