"""Triton kernels without a GPU: files named `test_*_interpreted.py` run under its interpreter.

The interpreter is chosen when a kernel is defined, by a variable in the environment, so these tests
have a process of their own: `make test-kernels`.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None
"""Whether this process runs kernels in the interpreter."""


def on_hardware() -> bool:
    """Whether this process runs kernels on a GPU."""
    import torch

    return not INTERPRETED and find_spec("triton") is not None and torch.cuda.is_available()


def mend_interpreter() -> None:
    """Lets loops over tensors run: Triton 3.6 turns arrays of one element into an int in a way
    that NumPy 2.4 no longer allows."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor, scope) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_and_mend
