"""Jobs sent to a real HTTP server that fails in every manner: one record per line all the same."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shoal.endpoints import EndpointOptions, endpoint_run
from shoal.errors import EndpointError
from shoal.jobs import JobResult, JobSpec, run_job
from tests.endpoints.conftest import FaultServer
from tests.endpoints.fault_server import GARBAGE, ODD
from tests.helpers.job_files import chat, completion, read_records, write_lines

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_run, "FIRST_WAIT", 0.05)


def run(folder: Path, model: Path, lines: list[Any], *urls: str, **options: Any) -> JobResult:
    spec = JobSpec(
        input=write_lines(folder / "in.jsonl", lines),
        output=folder / "out.jsonl",
        model=str(model),
        endpoints=EndpointOptions(endpoint=list(urls), **options),
        quiet=True,
    )
    return run_job(spec)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Of both files, by custom_id; each once."""
    found = [
        record
        for name in ("out.jsonl", "out.errors.jsonl")
        if (folder / name).exists()
        for record in read_records(folder / name)
    ]
    by_id = {record["custom_id"]: record for record in found}
    assert len(by_id) == len(found)
    return by_id


@pytest.mark.long
def test_every_fault_ends_in_one_record(tmp_path: Path, model: Path, server: FaultServer) -> None:
    passing = ["busy", "broken", "html", "malformed", "list", "empty", "reset", "hang"]
    lines: list[Any] = [chat(name, f"please [{name} 1]") for name in passing]
    lines += [
        chat("always broken", "[broken 99]"),
        chat("always html", "[html 99]"),
        chat("always malformed", "[malformed 99]"),
        chat("always reset", "[reset 99]"),
        chat("wrong", "[wrong 1]"),
        chat("ours", score_choices=["a", "b"]),
        chat("refused here", temperature=5),
        completion("many", ["x", "yz", "zzz"]),
    ]
    result = run(tmp_path, model, lines, server.url, endpoint_timeout=1.5)
    found = {name: record["response"] for name, record in records(tmp_path).items()}
    assert found.keys() == {line["custom_id"] for line in lines}
    for name in [*passing, "many"]:
        body = found[name]["body"]
        assert found[name]["status_code"] == 200, name
        assert (body["id"], body["model"]) == ("theirs", "theirs")
        assert body["of_its_own"] == {"kept": [1, None, "ü"]}
    assert [choice["index"] for choice in found["many"]["body"]["choices"]] == [0, 1, 2]
    statuses = {name: found[name]["status_code"] for name in found if name not in passing}
    del statuses["many"]
    assert statuses == {
        "always broken": 500,
        "always html": 502,
        "always malformed": 502,
        "always reset": 502,
        "wrong": 422,
        "ours": 400,
        "refused here": 400,
    }
    assert found["always broken"]["body"] == {"error": {"message": "oh no", "code": "mine"}}
    assert found["wrong"]["body"] == {"error": {"message": "not so", "param": "x"}}
    assert "Bad Gateway" in found["always html"]["body"]["error"]["message"]
    assert "score_choices" in found["ours"]["body"]["error"]["message"]
    assert (result.exit_code, result.summary.requests.failed) == (3, 7)
    assert result.summary.tokens.generated == 3 * 9
    attempts = [str(entry["body"]) for entry in server.log]
    assert sum("[wrong 1]" in text for text in attempts) == 1
    assert sum("[broken 99]" in text for text in attempts) == endpoint_run.MOST_TRIES
    assert sum("zzz" in text for text in attempts) == 1


@pytest.mark.long
@pytest.mark.parametrize("fault", ["busy", "full", "later"])
def test_retry_after_is_honoured(
    tmp_path: Path, model: Path, server: FaultServer, fault: str
) -> None:
    """On 429, 503 and 500; only one that has too much is left alone by the other lines, too."""
    lines = [chat("a", f"[{fault} 1]"), *(chat(f"{n}", f"text {n}") for n in range(4))]
    result = run(tmp_path, model, lines, server.url, endpoint_concurrency=1)
    assert (result.exit_code, len(records(tmp_path))) == (0, 5)
    refused, *later = [entry["time"] for entry in _from(server.log, fault)]
    again = [e["time"] for e in server.log if f"[{fault} 1]" in str(e["body"])][1]
    assert 1.0 <= again - refused < 20.0
    if fault != "later":
        assert min(later) - refused >= 1.0


def _from(log: list[dict[str, Any]], fault: str) -> list[dict[str, Any]]:
    """The attempts from the first with a fault on."""
    first = next(at for at, entry in enumerate(log) if f"[{fault} 1]" in str(entry["body"]))
    return log[first:]


@pytest.mark.long
def test_garbage_is_no_answer(tmp_path: Path, model: Path, server: FaultServer) -> None:
    """Whatever comes with status 200: once it is tried again, always it is an error record."""
    names = [*GARBAGE, "cut", "packed"]
    lines = [chat(f"{name} {count}", f"[{name} {count}]") for name in names for count in (1, 99)]
    lines += [chat(name, f"[{name} 99]") for name in ODD]
    result = run(tmp_path, model, lines, server.url, endpoint_patience=90)
    found = {name: record["response"] for name, record in records(tmp_path).items()}
    assert found.keys() == {line["custom_id"] for line in lines}
    for name in names:
        assert found[f"{name} 1"]["status_code"] == 200, name
        assert found[f"{name} 1"]["body"]["id"] == "theirs"
        assert found[f"{name} 99"]["status_code"] == 502, name
        assert found[f"{name} 99"]["body"]["error"]["code"] == "endpoint_failed"
    assert [found[name]["status_code"] for name in ODD] == [200] * len(ODD)
    assert result.summary.requests.failed == len(names)
    assert result.summary.tokens.generated == 3 * len(names)


@pytest.mark.long
def test_a_server_that_takes_few_at_once_gets_them_all(
    tmp_path: Path, model: Path, start_server: Any
) -> None:
    server = start_server(seconds=0.02, most=3)
    lines = [chat(f"{number}", f"text {number}") for number in range(60)]
    result = run(tmp_path, model, lines, server.url)
    assert (result.exit_code, len(read_records(tmp_path / "out.jsonl"))) == (0, 60)
    answered = [entry for entry in server.log if entry["at_once"] < 3]
    assert len(answered) == 60


def test_order_model_and_key(
    tmp_path: Path, model: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users of a prefix come one after another; the key is sent, and written nowhere."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    lines = [chat(f"{number}", f"{'abcd'[number % 4] * 200} {number}") for number in range(40)]
    lines[7]["body"]["model"] = "theirs"
    lines[8]["body"] |= {"seed": 5, "user": "me"}
    run(tmp_path, model, lines, server.url, endpoint_concurrency=1)
    prompts = [entry["body"]["messages"][0]["content"] for entry in server.log]
    letters = [prompt[0] for prompt in prompts]
    assert len(prompts) == 40
    assert sum(a != b for a, b in pairwise(letters)) == 3
    (kept,) = [
        e["body"] for e in server.log if e["body"]["messages"] == lines[8]["body"]["messages"]
    ]
    assert kept == lines[8]["body"] | {"model": "theirs"}
    assert {entry["body"]["model"] for entry in server.log} == {"theirs"}
    assert {entry["key"] for entry in server.log} == {"Bearer sk-secret"}
    assert not any(b"sk-secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_a_table_of_results_holds_their_answers(
    tmp_path: Path, model: Path, server: FaultServer
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    spec = JobSpec(
        input=write_lines(tmp_path / "in.jsonl", [chat("a", "b"), chat("c", "[wrong 1]")]),
        output=tmp_path / "out.parquet",
        model=str(model),
        endpoints=EndpointOptions(endpoint=[server.url]),
        quiet=True,
    )
    errors = run_job(spec).errors
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["custom_id"] for row in rows] == ["a"]
    assert (rows[0]["finish_reason"], rows[0]["completion_tokens"]) == ("stop", 3)
    assert "echo" in rows[0]["text"]
    assert errors is not None
    (error,) = read_records(errors)
    assert error["response"]["status_code"] == 422


def test_a_refused_key_stops_the_job(tmp_path: Path, model: Path, server: FaultServer) -> None:
    with pytest.raises(EndpointError, match="OPENAI_API_KEY"):
        run(tmp_path, model, [chat("a", "[forbidden 9]")], server.url)


def test_no_server(tmp_path: Path, model: Path) -> None:
    with pytest.raises(EndpointError, match=r"http://127\.0\.0\.1:9: ConnectError"):
        run(tmp_path, model, [chat("a")], "http://127.0.0.1:9/v1", endpoint_patience=0.1)


def test_a_name_the_servers_do_not_know_is_refused(
    tmp_path: Path, model: Path, server: FaultServer
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(EndpointError, match="may be theirs"):
        run(other, model, [chat("a")], server.url, endpoint_model="other")
    run(tmp_path, model, [chat("a", model="gpt-x"), chat("b", model="theirs")], server.url)
    statuses = {name: r["response"]["status_code"] for name, r in records(tmp_path).items()}
    assert statuses == {"a": 400, "b": 200}


def test_a_job_is_not_finished_by_another_engine(
    tmp_path: Path, model: Path, server: FaultServer
) -> None:
    run(tmp_path, model, [chat("a")], server.url)
    with pytest.raises(Exception, match="answered_by"):
        run_job(
            JobSpec(
                input=tmp_path / "in.jsonl",
                output=tmp_path / "out.jsonl",
                model=str(model),
                quiet=True,
            )
        )
