"""Escaping of untrusted text in Markdown: no headings, links, images, HTML or ends of a table's cell."""

import re
from html import escape
from typing import Any

from ppod_data.format.prompts import visible

_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")


def plain(text: str) -> str:
    """Escape text for a line or a table's cell, so that none of it is Markdown, HTML or a link."""
    escaped = _SPECIAL.sub(r"\\\1", escape(visible(text), quote=False))
    return re.sub(r"(?i)\bwww\.", "www&#46;", escaped.replace("://", "&#58;//"))


def code(text: str) -> str:
    """Return the text as a code span, also within a table's cell. The text can end neither."""
    return f"`{visible(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def front_matter(data: Any) -> str:
    """Return the YAML block on top of a card; `data` is a `huggingface_hub.CardData`, which quotes texts."""
    return f"---\n{data.to_yaml()}\n---"
