"""Build the sdist, and from it a wheel that other Linux machines can install.

    python tools/make_wheel.py DIST

The wheel must pass auditwheel's rules for `PLATFORM`; what it says is printed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

PLATFORM = "manylinux_2_28_x86_64"
"""glibc 2.28 or newer: RHEL 8, Debian 10, Ubuntu 20.04 and what came after them."""


def main() -> None:
    """Build both into a folder given as the first argument, which is emptied of older ones."""
    dist = Path(sys.argv[1])
    for old in [*dist.glob("shoal-*.whl"), *dist.glob("shoal-*.tar.gz")]:
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        run("-m", "build", "--outdir", folder, ".")
        (sdist,), (wheel,) = Path(folder).glob("*.tar.gz"), Path(folder).glob("*.whl")
        run("-m", "auditwheel", "show", str(wheel))
        run("-m", "auditwheel", "repair", "--plat", PLATFORM, "--wheel-dir", str(dist), str(wheel))
        sdist.rename(dist / sdist.name)
    for built in sorted(dist.glob("shoal-*")):
        print(built)


def run(*arguments: str) -> None:
    """Run Python with arguments; its failure is ours."""
    subprocess.run([sys.executable, *arguments], check=True)


if __name__ == "__main__":
    main()
