"""Self-contained HTML pages: one look for all of them, and nothing in them is loaded from a network.

What comes from a data set or a run is escaped where it is put in; the page's own policy forbids it to load anything
but what it holds.
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

PAGE_CSS: Path = Path(__file__).parent / "assets" / "page.css"
"""The stylesheet that every page shares."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def document(*, title: str, eyebrow: str, heading: str, body: str, style: str, script: str) -> str:
    """The whole document around `body`, which is HTML; `style` and `script` are what the page adds to the common look.

    title, eyebrow (the small line above the heading) and heading are texts.
    """
    common = PAGE_CSS.read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{common}{style}</style></head><body><main>"
        f'<header><p class="eyebrow">{escape(eyebrow)}</p><h1>{escape(heading)}</h1></header>'
        f'{body}</main><div id="tip" hidden></div><script>{script}</script></body></html>\n'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, which scrolls sideways where it is too wide."""
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def embedded(value: Any) -> str:
    """A plain value as JSON inside a page, for its script to read: no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )
    return f'<script type="application/json">{text}</script>'
