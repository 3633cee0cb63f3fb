"""Write the tables of `docs/models.md` by loading a tiny model of each family, in minutes.

python tools/make_models_docs.py            writes them
python tools/make_models_docs.py --check    exits with 1 when they are not up to date

`tests/model/test_families.py` checks them row by row.
"""

import logging
import sys
import tempfile
from pathlib import Path

from fate_tables import write

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.helpers.families import HEADS, count, families, row


def table(name: str) -> str:
    """One of the tables, each family in a folder of its own."""
    rows = []
    for family in families(name):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(name, family, Path(folder)))
    return "\n".join([HEADS[name], *rows])


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    sys.exit(write("models.md", {name: table(name) for name in HEADS} | {"count": count()}))
