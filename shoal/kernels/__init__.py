"""The C++ kernels (`csrc/`): loading the library and its C interface. The ops in C++ and Triton."""

from shoal.kernels.library import Isa, Kernels, available_isas, load_kernels, missing_note

__all__ = ["Isa", "Kernels", "available_isas", "load_kernels", "missing_note"]
