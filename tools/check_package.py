"""Install what `make wheel` built as a user would, in a clean environment, and run a job with it.

python tools/check_package.py DIST
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES = 8
"""Of the example job, which are run."""


def main() -> None:
    """Both the sdist and the wheel must install, plan and run, with kernels."""
    dist = Path(sys.argv[1]).resolve()
    (sdist,), (wheel,) = dist.glob("shoal-*.tar.gz"), dist.glob("shoal-*.whl")
    check_files(sdist, wheel)
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        venv.create(environment, with_pip=True)
        python = str(environment / "bin" / "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
        # torch first: left to the resolver, an unpinned one brings gigabytes of CUDA.
        run([*pip, "torch"], folder)
        for package in (sdist, wheel):
            run([*pip, "--force-reinstall", "--no-deps", package], folder)
            run([*pip, f"{package}[server]"], folder)
            check(environment, Path(folder), package.name)


def check_files(sdist: Path, wheel: Path) -> None:
    """Both hold every file of the package that the repository holds, the server's page included."""
    listed = subprocess.run(
        ["git", "ls-files", "shoal"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    expected = set(listed.stdout.splitlines())
    with tarfile.open(sdist) as packed:
        found = {name.partition("/")[2] for name in packed.getnames()}
    assert not expected - found, f"{sdist.name} lacks {sorted(expected - found)}"
    with zipfile.ZipFile(wheel) as zipped:
        missing = expected - set(zipped.namelist())
    assert not missing, f"{wheel.name} lacks {sorted(missing)}"
    pages = sum(name.startswith("shoal/server/http/page/") for name in expected)
    print(f"both hold all {len(expected)} files of the package, {pages} of them the server's page")


def check(environment: Path, folder: Path, name: str) -> None:
    """Plan and run a few of the example's requests from outside the repository."""
    shoal, python = environment / "bin" / "shoal", environment / "bin" / "python"
    job, results = folder / "job.jsonl", folder / "results.jsonl"
    lines = (ROOT / "examples" / "tickets.jsonl").read_text().splitlines(keepends=True)
    job.write_text("".join(lines[:LINES]))
    run([python, "-c", "from shoal.kernels import missing_note; assert not missing_note()"], folder)
    run(
        [python, "-c", "from shoal.server.http.routes_page import page_routes; page_routes()"],
        folder,
    )
    plan = run([shoal, "plan", job, "--json"], folder)
    assert json.loads(plan)["requests"] == LINES, plan
    run([shoal, "run", job, "-o", results, "--quiet", "--restart"], folder)
    assert len(results.read_text().splitlines()) == LINES
    print(f"{name}: installed, planned and ran {LINES} requests, with kernels")


def run(command: list[str | Path], folder: str | Path) -> str:
    """Run a command in a folder; what it printed."""
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    main()
