"""Self-contained HTML pages: one look for all of them, and nothing in them is loaded from a network.

Every function returns `Markup`, which is HTML. Templates and `Markup.format` escape a value unless it is `Markup`, so
texts of a data set or a run need no escaping by their users. The page's own policy forbids it to load anything but
what it holds.

Example:
    >>> titled("<b>", note("a & b"))
    Markup('<h3>&lt;b&gt;</h3><p class="note">a &amp; b</p>')
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parent
PAGE_CSS: Path = _FOLDER / "assets" / "page.css"
"""The stylesheet that every page shares."""
_TEMPLATES = Environment(
    loader=FileSystemLoader(_FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> Markup:
    """Fill a template of this folder; each value is escaped unless it is `Markup`."""
    return Markup(_TEMPLATES.get_template(template).render(values))


def join(parts: Iterable[str]) -> Markup:
    """Concatenate HTML; a part that is plain text is escaped."""
    return Markup("").join(parts)


def document(*, title: str, eyebrow: str, heading: str, body: Markup, style: Path, script: Path) -> str:
    """Return the whole page around `body`; `style` and `script` are files that the page adds to the common look.

    title, eyebrow (the small line above the heading) and heading are texts.
    """
    return render(
        "page.html",
        title=title,
        eyebrow=eyebrow,
        heading=heading,
        body=body,
        style=Markup(PAGE_CSS.read_text("utf-8") + style.read_text("utf-8")),
        script=Markup(script.read_text("utf-8")),
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, sortable: bool = False) -> Markup:
    """Return a table of texts, which scrolls sideways if it is too wide; the page's script makes its heads buttons."""
    return render("table.html", head=head, rows=rows, sortable=sortable)


def tiles(figures: Sequence[tuple[str, str, str]]) -> Markup:
    """Return boxes of figures: label, value and a note below."""
    return render("tiles.html", tiles=figures)


def titled(title: str, body: Markup) -> Markup:
    """Return `body` below a heading; nothing for an empty body."""
    return Markup("<h3>{}</h3>{}").format(title, body) if body else Markup()


def note(text: str) -> Markup:
    """Return a paragraph of small print; `text` may be `Markup`."""
    return Markup('<p class="note">{}</p>').format(text)


def embedded(value: Any) -> Markup:
    """Return a plain value as JSON inside a page, for its script to read: no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup('<script type="application/json">{}</script>').format(Markup(text.replace("<", "\\u003c")))
