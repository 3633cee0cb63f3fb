"""A run as a folder for people: pictures, figures, and a page that shows them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from html import escape
from pathlib import Path

import orjson

from shoal.devices import RunProtocol
from shoal.errors import OutputWriteError
from shoal.report.figures import plan_figure, svg, token_batches_figure
from shoal.report.summary import summary_rows
from shoal.types import RunSummary

_PICTURES = {
    "token_batches": (
        "Token batches",
        "Each bar is what one iteration computed, up to the token budget: answers first, then "
        "prompts; where the bars stay low while the KV pool is full, memory was the limit, and "
        "where both are low, there was nothing left to start.",
    ),
    "plan": (
        "The plan",
        "Each column is one prompt, its first token at the top: a coloured block is a prefix that "
        "was computed once for all the sequences it spans, grey is what each sequence had "
        "to compute for itself.",
    ),
}

# The pictures keep their white ground in the dark.
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: light-dark(#1b1f24, #e6e9ed); background: light-dark(#fff, #14171b); }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .25rem 2rem .25rem 0; vertical-align: top;
         border-bottom: 1px solid light-dark(#d8dde3, #343a42); }
th { font-weight: normal; white-space: pre; color: light-dark(#59636e, #9aa4b0); }
td { font-variant-numeric: tabular-nums; }
figure { margin: 0; }
img { width: 100%; background: #fff; border-radius: 6px; }
figcaption { max-width: 46rem; }
"""


REPORT_FILES = ("index.html", "plan.svg", "token_batches.svg", "summary.json")
"""What `write_report` writes into its folder."""


def write_report(folder: Path, *, title: str, summary: RunSummary, run: RunProtocol) -> Path:
    """Write index.html, which needs no other file, and what it shows as files beside it.

    These are plan.svg, token_batches.svg and summary.json, the same as `--summary` writes. The
    folder is made when it is missing; older reports in it are replaced.

    Returns:
        The path of index.html.

    Raises:
        OptionError: matplotlib is not installed.
        OutputWriteError: the folder cannot be written.
    """
    machine, plan = run.machine, run.plan
    budget, blocks = machine.token_budget, machine.num_blocks
    batches = token_batches_figure(run.trace, token_budget=budget, num_blocks=blocks)
    pictures = {"token_batches": svg(batches), "plan": svg(plan_figure(plan, run.prompt_lengths))}
    rows = [
        *summary_rows(summary),
        ("Token budget", f"{budget:,} per iteration"),
        ("KV pool", f"{blocks:,} blocks of {machine.block_size:,} tokens"),
        ("Sharing, order", f"{plan.sharing}, {plan.order}"),
    ]
    files = {f"{name}.svg": picture for name, picture in pictures.items()}
    files["summary.json"] = orjson.dumps(summary.to_dict(), option=orjson.OPT_INDENT_2)
    # A title made of a file's name may hold what UTF-8 cannot.
    files["index.html"] = _page(title, rows, pictures).encode(errors="xmlcharrefreplace")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise OutputWriteError(
            f"cannot write the report to {folder}: {error.strerror}. Choose another folder."
        ) from error
    return folder / "index.html"


def _page(title: str, rows: Iterable[tuple[str, str]], pictures: dict[str, bytes]) -> str:
    cells = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>'
        for name, text in rows
    )
    figures = "\n".join(_figure(name, picture) for name, picture in pictures.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<table>
{cells}
</table>
{figures}
</body>
</html>
"""


def _figure(name: str, picture: bytes) -> str:
    heading, reading = _PICTURES[name]
    data = b64encode(picture).decode()
    return f"""<h2>{escape(heading)}</h2>
<figure>
<img src="data:image/svg+xml;base64,{data}" alt="{escape(heading)}">
<figcaption>{escape(reading)}</figcaption>
</figure>"""
