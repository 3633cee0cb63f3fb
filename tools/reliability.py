"""Try what may go wrong, and print the table of `docs/reliability.md`: how often, with what result.

python tools/reliability.py [--slow] [NAME ...]     --slow: also what takes many minutes

A row is a set of tests, and a try is a case of one. Tests that try several things say how many
(`record_property("tries", ...)`); of property-based ones Hypothesis counts the examples.
"""

from __future__ import annotations

import argparse
import base64
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROWS: dict[str, tuple[str, ...]] = {
    "SIGKILL at random moments: the command on the bundled model": (
        "tests/e2e/test_kill.py",
    ),
    "SIGKILL at random moments: a job with a toy engine": (
        "tests/jobs/test_kill.py::test_random_kills",
    ),
    "SIGKILL before, and in the middle of, each single change of a file": (
        "tests/jobs/test_kill.py::test_a_kill_at_each_write",
    ),
    "SIGINT and SIGTERM: jobs and Python calls": (
        "tests/jobs/test_job_resumes.py -k interrupt or signal",
        "tests/e2e/test_run.py -k interrupt",
        "tests/e2e/test_together.py -k interrupted",
        "tests/test_llm_threads.py -k interrupt or handler",
    ),
    "a worker process is killed, hangs or cannot start": (
        "tests/processes/test_workers.py",
        "tests/devices/test_processes.py",
        "tests/tensor_parallel/test_end.py",
    ),
    "the disk is full": (
        "tests/jobs tests/results -k full",
    ),
    "a journal cut, damaged, or put together of others' lines": (
        "tests/jobs/test_journal.py -k cut or damage or whole_lines",
        "tests/jobs/test_header.py",
    ),
    "outputs that are others', links, pipes, changed or gone": (
        "tests/jobs/test_paths.py",
    ),
    "strange lines: one record each": (
        "tests/requests/test_strange.py",
    ),
    "strange lines, a million": (
        "tests/requests/test_strange.py -k every_strange_line -m slow",
    ),
    "fields of requests, each against its row in fields.md": (
        "tests/requests/test_body_fields.py",
    ),
    "chat templates: a text vanishes, or they do not end": (
        "tests/prompts/test_chat_template.py",
        "tests/prompts/test_watchdog.py",
    ),
    "damaged, incomplete or foreign model folders": (
        "tests/model/test_broken_models.py",
        "tests/model/test_loading.py",
    ),
    "models that are others in a packed batch than alone": (
        "tests/model/test_alone.py",
        "tests/model/test_alike.py",
    ),
    "greedy tokens are those of transformers, by family": (
        "tests/model/test_architectures.py",
    ),
    "a batch fails: it raises, or gives what is no number": (
        "tests/engine/test_engine.py -k fail or device or not_numbers",
    ),
    "threads and asyncio share a model": (
        "tests/test_llm_threads.py",
    ),
    "out of memory on a CUDA device": (
        "tests/cuda/test_on_device.py -k out_of_memory",
    ),
    "the server: SIGKILL at random moments to any of its processes": (
        "tests/server/test_kills.py::test_kills",
    ),
    "the server: the same, 200 times": (
        "tests/server/test_kills.py::test_many_kills -m slow",
    ),
    "the server: disk full, database locked, clock set back and forth": (
        "tests/server/test_faults.py",
    ),
    "the server: uploads that break off, crawl, lie or hold strange things": (
        "tests/server/test_abuse.py",
        "tests/server/test_errors.py",
    ),
    "the server: requests that schemathesis makes of its OpenAPI document": (
        "tests/server/test_schema.py -m slow",
    ),
    "the server on PostgreSQL, with a kill of each process": (
        "tests/server/test_postgres.py -m slow",
    ),
}  # fmt: skip
"""What is tried, and pytest's arguments: each string is one run of it."""

_EXAMPLES = re.compile(r"(\d+) passing")


def main() -> int:
    """Print the table; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="rows whose names contain one of these")
    parser.add_argument("--slow", action="store_true")
    chosen = parser.parse_args()
    print(
        "| what was tried | tests | tries | failed | skipped | seconds |\n|---|--:|--:|--:|--:|--:|"
    )
    failures = 0
    for name, runs in ROWS.items():
        wanted = not chosen.names or any(part in name for part in chosen.names)
        slow = any("-m slow" in run for run in runs)
        if not wanted or (slow and not chosen.slow):
            continue
        figures = [sum(column) for column in zip(*map(_run, runs), strict=True)]
        tests, tries, failed, skipped, seconds = figures
        print(
            f"| {name} | {tests:.0f} | {tries:,.0f} | {failed:.0f} | {skipped:.0f} "
            f"| {seconds:.0f} |",
            flush=True,
        )
        failures += int(failed)
    return int(failures > 0)


def _run(arguments: str) -> tuple[float, float, float, float, float]:
    """Tests that ran, their tries, failures, tests that were skipped, seconds."""
    path, *options = re.split(r" (?=-[km] )", arguments)
    split = [part for option in options for part in option.split(" ", 1)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", path, *split, "-ojunit_family=xunit1"]
        command.append(f"--junit-xml={report}")
        subprocess.run(command, stdout=sys.stderr, check=False)
        suite = ElementTree.parse(report).getroot()[0]
    total, failed, errors, skipped = (
        int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")
    )
    if total == 0:
        raise SystemExit(f"no test is chosen by {arguments!r}")
    return (
        total - skipped,
        sum(map(_tries, suite.iter("testcase"))) + _more_examples(suite),
        failed + errors,
        skipped,
        float(suite.attrib["time"]),
    )


def _tries(case: ElementTree.Element) -> int:
    if case.find("skipped") is not None:
        return 0
    said = [
        each.attrib["value"] for each in case.iter("property") if each.attrib["name"] == "tries"
    ]
    return int(said[0]) if said else 1


def _more_examples(suite: ElementTree.Element) -> int:
    """What Hypothesis tried beyond one example of each of its tests."""
    more = 0
    for each in suite.iterfind("properties/property"):
        if each.attrib["name"].startswith("hypothesis-statistics"):
            text = base64.b64decode(each.attrib["value"]).decode()
            more += sum(map(int, _EXAMPLES.findall(text))) - 1
    return more


if __name__ == "__main__":
    raise SystemExit(main())
