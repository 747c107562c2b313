"""The summary of a data set that a notebook shows: facts in a table, and thumbnails."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_THUMBNAILS = 6
_SIDE = 128
_ROW = Markup("<tr><th style='text-align: left'>{}</th><td style='text-align: left'>{}</td></tr>")
_FIGURE = Markup(
    "<figure style='display: inline-block; margin: 4px; width: 128px; vertical-align: top'>"
    "<img src='data:image/png;base64,{}' alt='{}' style='max-width: 128px'>"
    "<figcaption style='font-size: smaller'>{}</figcaption></figure>"
)


def summary_html(title: str, facts: Mapping[str, str], images: Sequence[tuple[str, "Image"]]) -> str:
    """Return HTML with a title, a row a fact, and a thumbnail with its prompt a given image; all text is escaped."""
    rows = Markup("").join(_ROW.format(name, value) for name, value in facts.items())
    figures = Markup("").join(_FIGURE.format(_thumbnail(image), prompt, prompt) for prompt, image in images)
    return Markup("<div><b>{}</b><table>{}</table><div>{}</div></div>").format(title, rows, figures)


def _thumbnail(image: "Image") -> str:
    """Return a PNG of at most 128 x 128 pixels in base64."""
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
