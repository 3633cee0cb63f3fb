"""Large temporaries are mapped once; in a process of its own, whose settings these are."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import save_model

MEBI = 2**20
SCRIPT = """
import ctypes, resource, sys
PR_SET_THP_DISABLE = 41
assert ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
import torch
from shoal import LLM

def faults():
    "Page faults of a few large blocks, one after the other."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for mebibytes in (48, 40, 44):
        torch.ones(mebibytes * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as fields:
        return int(fields.read().split()[1]) * resource.getpagesize()

fresh = faults()
llm = LLM(sys.argv[1], dtype="float32", kv_memory="4MiB")
faults()
kept, held = faults(), resident()
llm.close()
print(fresh, kept, held - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_large_temporaries_stay_mapped_until_the_engine_is_closed(tmp_path: Path) -> None:
    model = save_model(tmp_path, "llama")
    command = [sys.executable, "-c", SCRIPT, str(model)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    fresh, kept, returned = map(int, done.stdout.split())
    pages = (48 + 40 + 44) * MEBI // resource.getpagesize()
    assert fresh > pages // 2, "without the settings every block is mapped anew"
    assert kept < pages // 50
    assert returned > 40 * MEBI
