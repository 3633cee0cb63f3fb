"""The server under load: many clients and batches, beside the same lines in one `shoal run`.

python -m benchmarks.server_load [--clients 20] [--batches 100] [--requests 20000] [--rounds 3]

Each client uploads its files, starts their batches, asks once a second how far each is, and takes
the results. Printed are how long the server takes to answer, GET /v1/batches/{id} while the engine
is busy, requests per second beside `shoal run`'s, and a line of JSON. It fails if a record is lost.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLL_SECONDS = 1.0
URL = "/v1/chat/completions"
DOCUMENTS = 10
BOUNDARY = "shoal-load"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, value in (("clients", 20), ("batches", 100), ("requests", 20_000), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    rounds = []
    for number in range(asked.rounds):
        with tempfile.TemporaryDirectory(prefix="shoal-load-") as folder:
            found = one_round(Path(folder), asked.clients, asked.batches, asked.requests)
        print(f"round {number + 1}: {found}", flush=True)
        rounds.append(found)
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    print(json.dumps({"benchmark": "server_load", **vars(asked), **medians}))
    return 0


def one_round(folder: Path, clients: int, batches: int, requests: int) -> dict[str, float]:
    """The figures of a round."""
    files = [b"".join(lines_of(batch, requests // batches)) for batch in range(batches)]
    alone = run_alone(folder, b"".join(files))
    server = Served(folder)
    try:
        seconds = server.measure(files, clients)
        latencies = sorted(server.latencies)
    finally:
        server.close()
    served, run = requests / seconds, requests / alone
    return {
        "healthz_seconds": round(server.healthz_seconds, 2),
        "polls": len(latencies),
        "p50_ms": round(1000 * latencies[len(latencies) // 2], 1),
        "p99_ms": round(1000 * latencies[int(len(latencies) * 0.99)], 1),
        "longest_ms": round(1000 * latencies[-1], 1),
        "served_per_second": round(served, 1),
        "run_per_second": round(run, 1),
        "ratio": round(served / run, 3),
    }


def lines_of(batch: int, count: int) -> list[bytes]:
    """Questions about some documents, which batches share."""
    lines = []
    for number in range(count):
        document = f"Policy {batch % DOCUMENTS}. " + "Refunds are paid within a week. " * 20
        messages = [
            {"role": "system", "content": document},
            {"role": "user", "content": f"Ticket {batch}-{number}: where is my parcel?"},
        ]
        body = {"model": "shoal-tiny", "messages": messages, "max_tokens": 8, "ignore_eos": True}
        line = {"custom_id": f"{batch}-{number}", "method": "POST", "url": URL, "body": body}
        lines.append(json.dumps(line).encode() + b"\n")
    return lines


def run_alone(folder: Path, content: bytes) -> float:
    """Seconds of one `shoal run` of all lines, without loading the model."""
    (folder / "all.jsonl").write_bytes(content)
    summary = folder / "summary.json"
    command = [sys.executable, "-m", "shoal", "run", str(folder / "all.jsonl"), "--quiet"]
    command += ["--output", str(folder / "out.jsonl"), "--summary", str(summary)]
    subprocess.run(command, check=True)
    seconds: dict[str, float] = json.loads(summary.read_text())["seconds"]
    return seconds["total"] - seconds["load"]


@dataclass
class Served:
    """A server process, and what its clients measured."""

    folder: Path
    latencies: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "shoal", "serve", "--port", "0"]
        command += ["--data-dir", str(self.folder / "data"), "--max-rate", "1000"]
        began = time.monotonic()
        self.log = (self.folder / "server.log").open("w+")
        self.process = subprocess.Popen(command, stderr=self.log)
        while "serving on http://" not in (said := self._said()):
            if self.process.poll() is not None:
                raise SystemExit(said)
            time.sleep(0.01)
        self.port = int(said.split("serving on http://127.0.0.1:")[1].split("/")[0])
        self.healthz_seconds = 0.0
        while self.ask("GET", "/healthz")["engine"] != "ready":
            self.healthz_seconds = self.healthz_seconds or time.monotonic() - began
            time.sleep(0.1)

    def _said(self) -> str:
        return (self.folder / "server.log").read_text()

    def ask(self, method: str, path: str, body: bytes | None = None, type: str = "json") -> Any:
        """The JSON, or the bytes, of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            kind = "application/json" if type == "json" else type
            connection.request(method, path, body, {"content-type": kind})
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: {answer.status} {data[:500]!r}")
        is_json = (answer.getheader("content-type") or "").startswith("application/json")
        return json.loads(data) if is_json else data

    def measure(self, files: list[bytes], clients: int) -> float:
        """Seconds until all clients have all their results."""
        began = time.monotonic()
        with ThreadPoolExecutor(clients) as executor:
            parts = [list(range(client, len(files), clients)) for client in range(clients)]
            list(executor.map(lambda part: self._client(part, files), parts))
        return time.monotonic() - began

    def _client(self, part: list[int], files: list[bytes]) -> None:
        started = {}
        for number in part:
            head = (
                f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            )
            head += f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; '
            head += f'filename="{number}.jsonl"\r\n\r\n'
            form = head.encode() + files[number] + f"\r\n--{BOUNDARY}--\r\n".encode()
            kind = f"multipart/form-data; boundary={BOUNDARY}"
            file = self.ask("POST", "/v1/files", form, kind)
            asked = {"input_file_id": file["id"], "endpoint": URL, "completion_window": "24h"}
            batch = self.ask("POST", "/v1/batches", json.dumps(asked).encode())
            started[batch["id"]] = number
        while started:
            threading.Event().wait(POLL_SECONDS)
            for id in list(started):
                began = time.monotonic()
                batch = self.ask("GET", f"/v1/batches/{id}")
                self.latencies.append(time.monotonic() - began)
                if batch["status"] == "completed":
                    self._check(batch, files[started.pop(id)])
                elif batch["status"] not in ("validating", "in_progress", "finalizing"):
                    raise SystemExit(f"{id}: {batch}")

    def _check(self, batch: dict[str, Any], content: bytes) -> None:
        path = f"/v1/files/{batch['output_file_id']}/content"
        records = [json.loads(line) for line in self.ask("GET", path).splitlines()]
        expected = [json.loads(line)["custom_id"] for line in content.splitlines()]
        if [record["custom_id"] for record in records] != expected:
            raise SystemExit(f"{batch['id']}: {len(records)} of {len(expected)} records")

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()
        self.log.close()


if __name__ == "__main__":
    raise SystemExit(main())
