"""No file of a job is another's: what is written, read, left behind, or came in between."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.disk import NewFile, temporary_of
from shoal.errors import OptionError, OutputChangedError, OutputExistsError, OutputLockedError
from shoal.jobs import JobSpec
from shoal.jobs.paths import JobPaths, check_folder, check_written
from shoal.results.records import RECORD_BEGINS
from tests.helpers.job_files import chat, read_records
from tests.helpers.job_process import MIXED, CrashError, Job, stop_after


@pytest.mark.parametrize(
    ("output", "errors"),
    [
        ("results.jsonl", "results.errors.jsonl"),
        ("A.fp32", "A.fp32.errors.jsonl"),
        ("A.int8", "A.int8.errors.jsonl"),
        ("A.json", "A.json.errors.jsonl"),
        ("A", "A.errors.jsonl"),
        (".jsonl", ".errors.jsonl"),
    ],
)
def test_derived_names(tmp_path: Path, output: str, errors: str) -> None:
    paths = JobPaths.resolve(
        JobSpec(input=tmp_path / "in", output=tmp_path / output), tmp_path / "in", {}
    )
    assert paths.errors == tmp_path / errors
    assert paths.journal == tmp_path / f"{output}.journal"


def test_two_outputs_with_one_errors_file_keep_their_records(job: Job) -> None:
    one, other = job.folder / "A", job.folder / "A.jsonl"
    shared = job.folder / "A.errors.jsonl"

    def run(output: Path, **arguments: object) -> object:
        return job.run(output=output, **arguments)

    job.write(MIXED)
    with pytest.raises(CrashError):
        run(one, engine=stop_after(7, CrashError()))
    run(other)
    theirs = shared.read_bytes()
    for _ in range(2):
        with pytest.raises(OutputExistsError, match=r"A\.errors\.jsonl exists"):
            run(one)
        assert shared.read_bytes() == theirs
        assert not one.exists()
    shared.rename(job.folder / "moved")
    run(one)
    assert len(read_records(one)) + len(read_records(shared)) == len(MIXED)


def test_what_comes_while_the_job_runs_is_not_replaced(job: Job) -> None:
    def write_one(iteration: int) -> None:
        job.output.write_text("precious")

    with pytest.raises(OutputExistsError, match="Move it away"):
        job.write(MIXED).run(engine={"on_iteration": write_one})
    assert job.output.read_text() == "precious"
    job.output.unlink()
    assert job.run().exit_code == 3
    assert len(job.engines) == 1, "nothing is computed again"


def test_files_named_as_ours_used_to_be_are_left_alone(job: Job) -> None:
    names = ["out.jsonl.tmp", "out.errors.jsonl.tmp", "out.jsonl.journal.new"]
    for name in names:
        (job.folder / name).write_text("mine")
    job.write(MIXED).run()
    assert [(job.folder / name).read_text() for name in names] == ["mine"] * 3


@pytest.mark.parametrize("name", ["out.jsonl", "out.errors.jsonl", "out.jsonl.journal"])
def test_a_temporary_name_taken_by_something_else(job: Job, name: str) -> None:
    taken = temporary_of(job.folder / name)
    job.write(MIXED)
    taken.write_text("mine")
    with pytest.raises(OutputExistsError, match="Move it away"):
        job.run()
    assert taken.read_text() == "mine"
    assert job.engines == []
    assert not job.journal.exists()


def test_what_a_kill_left_behind_is_taken_away_at_the_next_start(job: Job) -> None:
    left = temporary_of(job.output)
    left.write_bytes(RECORD_BEGINS + b'000", torn')

    def gone(iteration: int) -> None:
        assert not left.exists()

    assert job.write(MIXED).run(engine={"on_iteration": gone}).exit_code == 3


def test_one_writer_of_a_file_at_a_time(tmp_path: Path) -> None:
    with NewFile(tmp_path / "f", b"x") as first:
        with pytest.raises(OutputLockedError), NewFile(tmp_path / "f", b"x"):
            pass
        first.write(b"x1")
        first.sync()
        first.put_in_place()
    assert os.listdir(tmp_path) == ["f"]


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("special", [fifo, lambda _: Path("/dev/null")])
def test_pipes_and_devices_are_not_replaced(
    job: Job, special: Callable[[Path], Path], restart: bool
) -> None:
    path = special(job.folder)
    job.write(MIXED)
    before = path.stat()
    for files in ({"output": path}, {"errors": path}):
        with pytest.raises(OptionError, match="a pipe or a device"):
            job.run(restart=restart, **files)
    assert os.path.samestat(before, path.stat())


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_links_are_seen_through(job: Job, link: Callable[[Path, Path], None]) -> None:
    job.write(MIXED)
    for files in ({"output": job.output}, {"errors": job.errors}):
        (path,) = files.values()
        link(job.input, path)
        with pytest.raises(OptionError, match="must be different files"):
            job.run(restart=True, **files)
        path.unlink()


@pytest.mark.parametrize(
    "name", [".out.jsonl.shoal-tmp", ".out.errors.jsonl.shoal-tmp", ".out.jsonl.journal.shoal-tmp"]
)
def test_an_input_named_as_a_temporary_file(job: Job, name: str) -> None:
    job.write(MIXED)
    job.input.rename(job.folder / name)
    with pytest.raises(OptionError, match="temporary file of the"):
        job.run(input=job.folder / name)
    assert (job.folder / name).stat().st_size


def test_other_files_of_the_command(job: Job) -> None:
    job.write(MIXED)
    config = Path(job.model) / "config.json"
    for path in (job.input, job.output, job.errors, job.journal, config):
        with pytest.raises(OptionError, match="--summary"):
            job.run(also_written={"--summary": path})
    (job.folder / "file").touch()
    for path, why in (
        (job.folder, "it is a folder"),
        (job.folder / "absent" / "s.json", "no folder"),
        (job.folder / "file" / "s.json", "no folder"),
        (job.folder / ("x" * 300), "File name too long"),
        (Path("/proc/s.json"), "cannot write in /proc"),
    ):
        with pytest.raises(OptionError, match=why):
            check_written(path, "--summary")
    for path, why in (
        (job.folder / "file" / "r", "is a file|no folder"),
        (Path("/proc/r"), "/proc"),
    ):
        with pytest.raises(OptionError, match=why):
            check_folder(path, "--report")
    check_folder(job.folder / "a" / "b", "--report")
    assert check_written(Path("/dev/null"), "--summary") == {}
    assert job.files() == {"in.jsonl", "file"}


def empty(path: Path) -> None:
    path.write_bytes(b"")


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def alter(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"batch_req_", b"batch_REQ_"))


@pytest.mark.parametrize("name", ["out.jsonl", "out.errors.jsonl"])
@pytest.mark.parametrize("change", [empty, shorten, alter])
def test_a_finished_job_whose_files_were_changed(
    job: Job, name: str, change: Callable[[Path], None]
) -> None:
    path = job.folder / name
    job.write(MIXED).run()
    change(path)
    changed = path.read_bytes()
    with pytest.raises(OutputChangedError, match="--restart"):
        job.run()
    assert path.read_bytes() == changed
    assert job.run(restart=True).exit_code == 3


def test_no_errors_file_is_named_that_is_not_there(job: Job) -> None:
    job.write(MIXED).run()
    job.errors.unlink()
    again = job.run()
    assert (again.already_finished, again.exit_code, again.errors) == (True, 3, None)


def test_a_restart_is_remembered_through_an_interruption(job: Job) -> None:
    job.write(MIXED)
    for path in (job.output, job.errors):
        path.write_text("old")
    with pytest.raises(CrashError):
        job.run(restart=True, engine=stop_after(3, CrashError()))
    assert job.run().exit_code == 3
    job.write([chat("new")])
    with pytest.raises(CrashError):
        job.run(restart=True, engine=stop_after(1, CrashError()))
    job.output.write_text("came later")
    with pytest.raises(OutputExistsError):
        job.run()
