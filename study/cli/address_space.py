"""Check that the limit of the address space (ulimit -v) leaves room for torch.

Below it, imports of torch and transformers fail in many places, are tried again by libraries, and
may not react to Ctrl-C.
"""

import resource

from .session import fail

MIN_BYTES = 2 * 2**30
"""Importing torch for CPUs (2.13) and transformers takes 1.4 GiB, and a run of the demo up to
2.3 GiB. Between these, libraries abort the process; from 2 GiB on they raise a MemoryError. Builds
of torch for GPUs need more."""


def check_address_space() -> None:
    """End the command with a message if the limit is too low to load torch."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < MIN_BYTES:
        fail(
            f"the limit of the address space is {soft / 2**30:.3g} GiB (ulimit -v), but torch "
            f"needs at least {MIN_BYTES / 2**30:g} GiB: raise it, for example with "
            "ulimit -v unlimited"
        )
