"""A planned job as one page for the browser, which needs no other file."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib import resources
from pathlib import Path

from shoal.errors import OutputWriteError
from shoal.report.explain import PlanReport
from shoal.report.forest_svg import COLORS, ForestPicture, draw_forest
from shoal.report.plan_advice import Advice, Shown
from shoal.report.plan_facts import fact_rows, mode_rows
from shoal.report.plan_tree import Branch, hidden_line
from shoal.report.units import TIMES

_HINT = "Point at a block, or choose one with the arrow keys, to read it; click or Enter zooms in."


def write_plan_page(path: Path, title: str, report: PlanReport) -> None:
    """Write the page; an older one is replaced. It stays below 2 MB whatever the job's size.

    Raises:
        OutputWriteError: the file cannot be written.
    """
    page = plan_page(title, report)
    try:
        # A title made of a file's name may hold what UTF-8 cannot.
        path.write_bytes(page.encode(errors="xmlcharrefreplace"))
    except OSError as error:
        raise OutputWriteError(
            f"cannot write the page to {path}: {error.strerror}. Choose another file."
        ) from error


def plan_page(title: str, report: PlanReport) -> str:
    """The page as HTML."""
    script, style = _resource("plan_page.js"), _resource("plan_page.css")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    picture = draw_forest(report.plan, report.table.lengths, report.excerpts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'">
<title>{escape(title)}: the plan</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{escape(title)}: the plan</h1>
<p>{escape(report.explanation)}</p>
{_facts(report)}
{_advice(report.advice)}
<h2>The prefix forest</h2>
{_figure(picture)}
{_prefixes(report.tree)}
<h2>Prompt tokens saved by sharing</h2>
{_modes(report)}
</main>
<script type="application/json" id="data">{_data(report, picture)}</script>
<script>{script}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return resources.files("shoal.report").joinpath(name).read_text(encoding="utf-8")


def _data(report: PlanReport, picture: ForestPicture) -> str:
    """What the script reads, as JSON that cannot end its element."""
    data = {
        "segments": picture.segments,
        "merged": picture.merged_saved,
        "sequences": report.plan.num_sequences,
        "depth": picture.depth,
        "hint": _HINT,
    }
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


def _facts(report: PlanReport) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>'
        for name, text in fact_rows(report.plan, report.facts)
    )
    return f"<table>\n{rows}\n</table>"


def _modes(report: PlanReport) -> str:
    heads = "".join(
        f'<th scope="col" class="number">{name}</th>' for name in ("Saved", "Of all", "To compute")
    )
    rows = "\n".join(
        f'<tr{" class=planned" if row.planned else ""}><th scope="row">{escape(row.name)}'
        f"{' (planned)' if row.planned else ''}</th>"
        f'<td class="number">{row.saved:,}</td><td class="number">{row.share:.1%}</td>'
        f'<td class="number">{row.computed:,}</td></tr>'
        for row in mode_rows(report.plan, report.facts.savings)
    )
    return f'<table>\n<tr><th scope="col">Mode</th>{heads}</tr>\n{rows}\n</table>'


def _advice(advice: list[Advice]) -> str:
    if not advice:
        return ""
    items = "\n".join(
        f"<li><strong>{escape(item.title)}</strong><br>{escape(item.where)}"
        f"{_examples(item.examples)}<br>Cost: {escape(item.cost)}<br>"
        f"{escape(item.remedy)} {escape(item.gain)}</li>"
        for item in advice
    )
    return f"<h2>What would help</h2>\n<ol>\n{items}\n</ol>"


def _examples(examples: tuple[Shown, ...]) -> str:
    if not examples:
        return ""
    lines = "\n".join(
        f"line {shown.line:,}: {escape(shown.before)}<mark>{escape(shown.difference)}</mark>"
        f"{escape(shown.after)}"
        for shown in examples
    )
    return f"<pre>{lines}</pre>"


def _figure(picture: ForestPicture) -> str:
    keys = "".join(f'<span class="key s{n}"></span>' for n in range(COLORS))
    least, most = picture.bounds
    legend = f"{keys} tokens saved by a block, {least:,} to {most:,}" if picture.segments else ""
    return f"""<figure>
{picture.svg}
<div class="axis"><span id="range">all sequences, in the order to run</span>
<span>{picture.depth:,} prompt tokens deep</span>
<span>{legend}</span>
<span><span class="key t"></span> sequences' own parts</span>
<button id="reset" type="button" hidden>Show all</button></div>
<p id="tip" aria-live="polite">{escape(_HINT)}</p>
<figcaption id="forest-help">Each column is one prompt, its first token at the top. A coloured block
is a prefix that is computed once for all the sequences it spans; its area is the tokens that an
engine without sharing would compute. The largest prefixes are listed below.</figcaption>
</figure>"""


def _prefixes(root: Branch) -> str:
    if not root.children:
        return ""
    return f"<h2>What saves most</h2>\n{_list(root, root.saved_below, ' class=tree')}"


def _list(branch: Branch, everything: int, attribute: str = "") -> str:
    items = [
        f"<li>{child.sequences:,} sequences {TIMES} {child.tokens:,} tokens, "
        f"<strong>{child.saved:,}</strong> saved ({child.saved / max(everything, 1):.0%}) "
        f'<span class="text">{escape(child.text)}</span>'
        f"{_list(child, everything)}</li>"
        for child in branch.children
    ]
    if branch.hidden:
        items.append(f'<li class="muted">{escape(hidden_line(branch, everything))}</li>')
    return f"<ul{attribute}>{''.join(items)}</ul>" if items else ""
