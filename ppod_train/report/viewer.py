"""Sample grids of the report: the same seeds at every evaluation, with a slider over the evaluations.

A prompt's images are cut out of the evaluation's contact sheet by the page's style (one embedded image per
evaluation), so that the frames around them follow the page's colours and width.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from ppod_data.html.charts.axes import Format
from ppod_data.html.page import embedded, join, note
from ppod_data.support.formatting import counted, precision
from ppod_train.evaluation.files import read_sheet
from ppod_train.report.records import Record, finite
from ppod_train.report.runs import Evaluation

MAX_TILE = 128
"""Pixels; larger images are embedded at this size."""
_JPEG_QUALITY = 88
_MOST_RANKED = 4
"""Images in the rows of the best and of the worst."""
_OPEN_PROMPTS = 2
"""The grids of further prompts start closed."""


def viewer(
    evaluations: Sequence[Evaluation], first: Evaluation | None, kept: Evaluation | None = None
) -> Markup:
    """Render the grids of `evaluations` below those of `first`, and the best and worst images of `kept`.

    The last evaluation is shown until the reader moves the slider. The result is "" if no image was kept.
    """
    with_sheets = [item for item in evaluations if item.sheet is not None and item.record.get("sheet")]
    if not with_sheets:
        return Markup()
    layout = with_sheets[-1].record["sheet"]
    with_sheets = [item for item in with_sheets if item.record["sheet"] == layout]
    fixed = first is not None and first in with_sheets and len(with_sheets) > 1
    choices = [item for item in with_sheets if item is not first] if fixed else with_sheets
    data = embedded(
        {
            "columns": layout["columns"],
            "rows": len(layout["prompts"]),
            "steps": [_step(item, layout) for item in choices],
            "first": _step(first, layout) if fixed and first is not None else None,
            "kept": choices.index(kept) if kept in choices else -1 if fixed and kept is first else None,
        }
    )
    shape = f"aspect-ratio:{layout['width']}/{layout['height']}"
    prompts = [
        _prompt(prompt, row, layout["columns"], first.label if fixed and first else None, shape)
        for row, prompt in enumerate(layout["prompts"])
    ]
    blocks = join(prompts[:_OPEN_PROMPTS])
    if rest := prompts[_OPEN_PROMPTS:]:
        more = Markup("<details><summary>{}</summary>{}</details>")
        blocks += more.format(counted(len(rest), "more prompt"), join(rest))
    slider = (
        Markup(
            '<label class="slider"><output></output><input type="range" min="0" '
            'max="{last}" value="{last}" step="1" aria-label="evaluation"></label>'
        ).format(last=len(choices) - 1)
        if len(choices) > 1
        else ""
    )
    words = Markup("The same place is the same seed. ") + _legend(choices[-1])
    ranked = _best_and_worst(kept, layout, shape) if kept is not None and kept in with_sheets else Markup()
    return Markup('<div class="viewer">{}{}{}{}{}</div>').format(note(words), slider, blocks, ranked, data)


def _best_and_worst(kept: Evaluation, layout: Record, shape: str) -> Markup:
    """Render the images of the kept policy with the highest and the lowest rewards, of those on its sheet."""
    scored = [
        (reward, prompt, row, column)
        for row, prompt in enumerate(layout["prompts"])
        for column, value in enumerate(_images(kept, prompt, "rewards")[: layout["columns"]])
        if (reward := finite(value)) is not None
    ]
    scored.sort(key=lambda item: item[0], reverse=True)
    count = min(_MOST_RANKED, len(scored) // 2)
    if not count:
        return Markup()
    show = precision([reward for reward, *_ in scored]).number
    ends = (("best", scored[:count]), ("worst", scored[: -count - 1 : -1]))
    strips = join(
        _strip(
            Markup("<small>{}</small>").format(name),
            "kept",
            join(_ranked(*item, show, shape) for item in items),
        )
        for name, items in ends
    )
    text = f"{kept.label.capitalize()}: the highest and lowest rewards of its {counted(len(scored), 'image')}"
    text += " on this page."
    return Markup("<details><summary>Best and worst</summary>{}{}</details>").format(note(text), strips)


def _ranked(reward: float, prompt: str, row: int, column: int, show: Format, shape: str) -> Markup:
    return Markup('<span class="ranked">{}<small>{}</small></span>').format(
        _tile(f"{prompt}, reward {show(reward)}", row, column, shape), f"{show(reward)} {prompt}"
    )


def _images(evaluation: Evaluation, prompt: str, name: str) -> Sequence[object]:
    """Return a value of each image of a prompt."""
    return evaluation.record.get("images", {}).get(prompt, {}).get(name) or []


def _legend(evaluation: Evaluation) -> Markup:
    if all(values.get("correct") is None for values in evaluation.record.get("images", {}).values()):
        return Markup()
    return Markup(
        'The scorer finds <span class="mark right">✓ every fact of the prompt right</span> or '
        '<span class="mark wrong">✗ something wrong</span>.'
    )


def _prompt(prompt: str, row: int, columns: int, first_label: str | None, shape: str) -> Markup:
    tiles = join(_tile(f"{prompt}, image {column + 1}", row, column, shape) for column in range(columns))
    above = Markup()
    if first_label is not None:
        above = _strip(Markup("<small>{}</small>").format(first_label), "first", tiles)
    now = _strip(Markup('<small class="now"></small>'), "now", tiles)
    return Markup("<h4>{}</h4>{}{}").format(prompt, above, now)


def _tile(label: str, row: int, column: int, shape: str) -> Markup:
    return Markup(
        '<span class="tile" role="img" aria-label="{}" data-row="{}" data-column="{}" style="{}"></span>'
    ).format(label, row, column, shape)


def _strip(label: Markup, which: str, tiles: Markup) -> Markup:
    return Markup('<div class="strip">{}<div class="tiles" data-which="{}">{}</div></div>').format(
        label, which, tiles
    )


def _step(evaluation: Evaluation, layout: Record) -> dict[str, object]:
    assert evaluation.sheet is not None
    correct = [_images(evaluation, prompt, "correct")[: layout["columns"]] for prompt in layout["prompts"]]
    return {"label": evaluation.label, "sheet": sheet_uri(evaluation.sheet, layout), "correct": correct}


def sheet_uri(path: Path, layout: Record) -> str:
    """Return the contact sheet as a data URI: the PNG for small images, otherwise a smaller JPEG."""
    data, sheet = read_sheet(path, layout)
    largest = max(layout["width"], layout["height"])
    if largest <= MAX_TILE:
        return "data:image/png;base64," + base64.b64encode(data).decode()
    scale = MAX_TILE / largest
    size = (
        round(layout["width"] * scale) * layout["columns"],
        round(layout["height"] * scale) * len(layout["prompts"]),
    )
    buffer = io.BytesIO()
    small = sheet.resize(size, Image.Resampling.LANCZOS)
    small.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
