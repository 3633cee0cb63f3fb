"""Libraries that vLLM's documentation asks for in LD_PRELOAD: TCMalloc and Intel's OpenMP.

https://docs.vllm.ai/en/latest/getting_started/installation/cpu/, "set LD_PRELOAD".
"""

from __future__ import annotations

from ctypes.util import find_library
from pathlib import Path

NO_TCMALLOC = (
    "TCMalloc is not installed; vLLM's documentation asks for it "
    "(Debian's package is libtcmalloc-minimal4)"
)


def preload_of(environment: Path) -> list[str]:
    """Those that are here, as the dynamic loader takes them: TCMalloc's name, OpenMP's path.

    Args:
        environment: vLLM's, into which `intel-openmp` was installed.
    """
    found = find_library("tcmalloc_minimal")
    openmp = environment / "lib" / "libiomp5.so"
    return [*([found] if found else []), *([str(openmp.absolute())] if openmp.exists() else [])]
