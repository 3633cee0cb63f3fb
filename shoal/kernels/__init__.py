"""The C++ kernels (`csrc/`): loading the library and its C interface."""

from shoal.kernels.library import Isa, Kernels, available_isas, load_kernels, missing_note

__all__ = ["Isa", "Kernels", "available_isas", "load_kernels", "missing_note"]
