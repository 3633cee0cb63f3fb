"""Write `examples/orders.csv` and `examples/topics.csv`: tickets of one policy each, as tables.

python tools/make_ticket_tables.py
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
POLICIES = {"orders.csv": "extract-06-", "topics.csv": "route-07-"}
"""By file: how the ids of a policy's tickets in `examples/tickets.jsonl` begin."""


def main() -> None:
    """Write the files anew, in the order of the tickets."""
    lines = (EXAMPLES / "tickets.jsonl").read_text(encoding="utf-8").splitlines()
    requests = [json.loads(line) for line in lines]
    for name, policy in POLICIES.items():
        with (EXAMPLES / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("ticket", "text"))
            for request in requests:
                if request["custom_id"].startswith(policy):
                    *_, user = request["body"]["messages"]
                    writer.writerow((request["custom_id"], user["content"]))


if __name__ == "__main__":
    main()
