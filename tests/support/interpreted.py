"""Imported before anything else that imports Triton: makes it interpret where there is no GPU.

Triton reads the variable where a function is defined: its own functions at its import, ours in
test_kernels.py. It is gone again at once, so that no child process knows of it.
"""

import contextlib
import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401
    del os.environ["TRITON_INTERPRET"]
