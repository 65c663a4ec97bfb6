"""Enables Triton's interpreter if there is no GPU. Import this module before Triton.

Triton reads the variable when a kernel is defined: at its own import, and in test_kernels.py. The
variable is removed again, so that child processes do not inherit it.
"""

import contextlib
import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401
    del os.environ["TRITON_INTERPRET"]
