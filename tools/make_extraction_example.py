"""Write `examples/orders.csv`: the tickets of one policy of `examples/tickets.jsonl`, as a table.

python tools/make_extraction_example.py
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
POLICY = "extract-06-"


def main() -> None:
    """Write the file anew, in the order of the tickets."""
    lines = (EXAMPLES / "tickets.jsonl").read_text(encoding="utf-8").splitlines()
    requests = [json.loads(line) for line in lines]
    with (EXAMPLES / "orders.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("ticket", "text"))
        for request in requests:
            if request["custom_id"].startswith(POLICY):
                *_, user = request["body"]["messages"]
                writer.writerow((request["custom_id"], user["content"]))


if __name__ == "__main__":
    main()
