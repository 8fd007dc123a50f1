"""One HTML page that needs nothing else: no script, no font, no address."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Final

from uid2_async._private import printable
from uid2_async.cli.report.sections import Section

__all__ = ["render"]

_MANY_ROWS: Final = 20

_CSS: Final = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2430; --faint: #566070;
  --line: #d5dae2; --bar: #2f6fb2; --letters: system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e6eaf0;
  --faint: #a3adbb; --line: #39424f; --bar: #6da7e3; } }
body { background: var(--paper); color: var(--ink); font: 1rem/1.5 var(--letters);
  margin: 0 auto; max-width: 46rem; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .3rem; }
p { margin: .3rem 0 .9rem; }
.faint, dt, caption, summary { color: var(--faint); }
dl { display: grid; gap: .7rem 1.5rem; margin: 1.2rem 0 0;
  grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); }
dt { font-size: .85rem; }
dd { font-weight: 600; margin: 0; overflow-wrap: anywhere; }
svg { display: block; height: auto; width: 100%; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  margin: .6rem 0; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem .25rem 0;
  text-align: right; white-space: nowrap; }
th:first-child { text-align: left; }
tbody th { font-weight: 400; }
summary { cursor: pointer; }
summary:focus-visible { outline: 2px solid var(--bar); outline-offset: 3px; }
"""


def render(
    facts: Mapping[str, str], sections: Sequence[Section], pictures: Sequence[str]
) -> str:
    """Write the page.

    Args:
        facts: What stands at the top.
        sections: What follows.
        pictures: The SVG of each section.
    """
    listed = "\n".join(
        f"<div><dt>{_escape(name)}</dt><dd>{_escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    parts = "\n".join(
        _section(section, picture)
        for section, picture in zip(sections, pictures, strict=True)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>State of bulk mapping</title>
<style>{_CSS}</style>
</head>
<body>
<main>
<h1>State of bulk mapping</h1>
<p class="faint">Counts alone: no identity, hash or raw UID is in this page. Days are
those of UTC.</p>
<dl>
{listed}
</dl>
{parts}
</main>
</body>
</html>
"""


def _section(section: Section, picture: str) -> str:
    """Write one section: the picture, and under it the table that says the same."""
    table = _table(section)
    if len(section.rows) > _MANY_ROWS:
        summary = f"As a table, {len(section.rows)} rows"
        table = f"<details><summary>{summary}</summary>\n{table}\n</details>"
    return f"""<section aria-labelledby="{section.name}">
<h2 id="{section.name}">{_escape(section.title)}</h2>
<p>{_escape(section.text)}</p>
{picture}
{table}
</section>"""


def _table(section: Section) -> str:
    """Write the table of a section."""
    head = "".join(f'<th scope="col">{_escape(cell)}</th>' for cell in section.head)
    rows = "\n".join(
        f'<tr><th scope="row">{_escape(first)}</th>'
        + "".join(f"<td>{_escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in section.rows
    )
    return f"""<div class="scroll"><table aria-labelledby="{section.name}">
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>"""


def _escape(text: str) -> str:
    """Make *text* fit for the page: neither markup nor a control character."""
    return html.escape(printable(text))
