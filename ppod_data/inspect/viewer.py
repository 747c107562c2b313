"""One self-contained HTML page about a data set: its samples, pairs, scores and settings.

Data sets are untrusted: every text is escaped, images are decoded and encoded again, and the page can load
nothing. The number of images is bounded, and with it the page's size.
"""

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.image_reader import read_images
from ppod_data.errors import DamagedError
from ppod_data.format.images import decode_image
from ppod_data.format.prompts import visible
from ppod_data.html.charts.points import histogram_chart
from ppod_data.html.page import document, embedded, join, table, tiles, titled
from ppod_data.html.page import note as small_print
from ppod_data.inspect.describe import settings
from ppod_data.inspect.label_views import label_section
from ppod_data.inspect.overview import overview, read_scores
from ppod_data.inspect.selection import Selection, select
from ppod_data.storage.files import atomic_write
from ppod_data.storage.real_folders import settled
from ppod_data.support.formatting import UNKNOWN, Precision, counted, fixed, percent, spread

MAX_IMAGES = 200
"""The default number of images: at most 10 MB in all, reached only by images of pure noise."""
_MAX_SIDE = 256
"""Pixels; larger images are scaled down."""
_KEPT_SIDE = 128
"""Pixels; images up to this size are embedded without loss."""
_JPEG_QUALITY = 85
_MAX_PROMPT_ROWS = 100
_ASSETS = Path(__file__).parent / "assets"


def write_viewer(dataset: Dataset, out: Path, *, max_images: int = MAX_IMAGES) -> None:
    """Write the page to the file `out`, replacing an existing one.

    Args:
        dataset: the data set.
        out: the HTML file.
        max_images: the most embedded images, of evenly chosen prompts, from their best to their worst.

    Raises:
        DamagedError: a table of the data set is damaged.
    """
    out = settled(out)
    checked = [] if dataset.spec.safety_checker is None else ["flagged"]
    samples = dataset.samples(["sample_id", "prompt_id", "prompt", "image_index", *checked]).to_pylist()
    numbers = dataset.numbers.find([row["sample_id"] for row in samples])
    scores = {name: read_scores(dataset, name).values[numbers] for name in dataset.score_names()}
    pairs = {name: dataset.pairs(name).to_pylist() for name in dataset.pair_names()}
    num_pairs = {name: len(rows) for name, rows in pairs.items()}
    chosen = select(samples, scores, pairs, max_images)
    figures = overview(dataset)
    body = [
        _headline(dataset, figures),
        titled("Scores", _scores(figures)),
        titled("People", label_section(figures["labels"])),
        titled("Samples", _samples(dataset, samples, scores, chosen, num_pairs)),
        titled("Prompts", _prompts(samples, scores)),
        titled("Settings", table(["option", "value"], [list(item) for item in settings(dataset).items()])),
    ]
    name = visible(dataset.root.resolve().name)
    page = document(
        title=f"ppod: {name}",
        eyebrow="ppod data set",
        heading=name,
        body=join(body),
        style=_ASSETS / "dataset.css",
        script=_ASSETS / "dataset.js",
    )
    atomic_write(out, page.encode())


def _headline(dataset: Dataset, figures: Mapping[str, Any]) -> Markup:
    spec = dataset.spec
    missing = spec.num_samples - figures["num_samples"] - dataset.num_excluded
    size = f"{spec.width} × {spec.height} pixels"
    each = f"{'at most ' if spec.is_forward else ''}{counted(spec.num_images_per_prompt, 'image')} each"
    shown = [
        ("images", f"{figures['num_samples']:,}", f"{missing:,} to be made" if missing else size),
        ("prompts", f"{len(spec.prompts):,}", each),
        ("denoising steps", f"{spec.num_inference_steps}", f"stored: {spec.store_steps}"),
        (
            "bytes",
            _bytes(sum(figures["bytes"].values())),
            f"{_bytes(figures['bytes']['trajectories'])} trajectories",
        ),
    ]
    shown += [
        (
            f"mean {name}",
            _score_format(one)(one["mean"]),
            f"{_score_format(one)(one['p05'])} … {_score_format(one)(one['p95'])}",
        )
        for name, one in list(figures["scores"].items())[:1]
    ]
    if figures["num_flagged"] is not None:
        shown.append(("flagged", f"{figures['num_flagged']:,}", "by the model's safety checker"))
    if figures["pairs"]:
        num_pairs = sum(one["rows"] for one in figures["pairs"].values())
        shown.append(("pairs", f"{num_pairs:,}", counted(len(figures["pairs"]), "table")))
    made = f"Made by {visible(spec.model)}" + (f" with {visible(spec.adapter)}" if spec.adapter else "")
    made += f", guidance {spec.guidance_scale:g}, seed {spec.seed}. Licence: {visible(figures['license'])}."
    return tiles(shown) + small_print(made)


def _scores(figures: Mapping[str, Any]) -> Markup:
    charts = [
        histogram_chart(
            one["histogram"],
            title=name,
            note=f"{one['scorer']} {one['revision']}: mean {_score_format(one)(one['mean'])}, median "
            f"{_score_format(one)(one['median'])}" + (f", {one['failed']:,} failed" if one["failed"] else ""),
            x_label="score",
            colour=i % 8,
        )
        for i, (name, one) in enumerate(figures["scores"].items())
    ]
    charts += [
        histogram_chart(
            one["margin"],
            title=f"pairs {name}",
            note=counted(one["rows"], "pair"),
            x_label="margin",
            colour=7,
        )
        for name, one in figures["pairs"].items()
        if one["margin"]["counts"]
    ]
    parts = [Markup('<div class="charts">{}</div>').format(join(charts))] if charts else []
    if figures["agreement"]:
        rows = [
            [
                f"{one['a']} and {one['b']}",
                f"{one['rows']:,}",
                fixed(one["pearson"]),
                fixed(one["spearman"]),
                _of(one["same_order"], one["compared"]),
            ]
            for one in figures["agreement"]
        ]
        head = [
            "score tables",
            "images",
            "correlation",
            "of ranks",
            "prefer the same of two images of a prompt",
        ]
        parts.append(table(head, rows))
    if figures["pairs"]:
        names = list(figures["scores"])
        rows = [
            [
                name,
                f"{one['rows']:,}",
                f"{one['prompts']:,}",
                visible(", ".join(one["sources"][:3])),
                *(
                    _of(one["agrees_with"][score]["share"], one["agrees_with"][score]["pairs"])
                    for score in names
                ),
            ]
            for name, one in figures["pairs"].items()
        ]
        parts.append(
            table(
                ["pair table", "pairs", "prompts", "preferred by", *(f"{name} agrees" for name in names)],
                rows,
            )
        )
    return join(parts)


def _of(share: float | None, count: int) -> str:
    return UNKNOWN if share is None else f"{percent(share)} of {count:,}"


def _samples(
    dataset: Dataset,
    samples: Sequence[Mapping[str, Any]],
    scores: Mapping[str, NDArray[np.float64]],
    chosen: Selection,
    num_pairs: Mapping[str, int],
) -> Markup:
    """Return the browser of some images and pairs. `num_pairs` is the number of pairs in each table."""
    if not chosen.rows:
        return Markup()
    place = {samples[row]["sample_id"]: row for row in chosen.rows}
    prompts: dict[str, int] = {}
    images: list[dict[str, Any]] = []
    position: dict[int, int] = {}
    for sample_id, data in read_images(dataset.root, dataset.spec, list(place)):
        row = place[sample_id]
        position[row] = len(images)
        images.append(
            {
                "id": sample_id,
                "prompt": prompts.setdefault(visible(samples[row]["prompt"]), len(prompts)),
                "k": samples[row]["image_index"],
                "scores": [_finite(column[row]) for column in scores.values()],
                **_source(data),
                **({"flagged": True} if samples[row].get("flagged") else {}),
            }
        )
    pairs = {
        name: [
            [position[chosen_row], position[rejected_row], label, margin, visible(source), votes]
            for chosen_row, rejected_row, label, margin, source, votes in rows
            if chosen_row in position and rejected_row in position
        ]
        for name, rows in chosen.pairs.items()
    }
    spec = dataset.spec
    json = embedded(
        {
            "scores": list(scores),
            "forms": [_form(column) for column in scores.values()],
            "margins": {
                name: _form([margin for *_, margin, _, _ in rows]) for name, rows in chosen.pairs.items()
            },
            "prompts": list(prompts),
            "images": images,
            "pairs": {name: rows for name, rows in pairs.items() if rows},
            "aspect": f"{spec.width}/{spec.height}",
        }
    )
    note = "All images."
    if len(images) < len(samples):
        note = f"{len(images):,} of {counted(len(samples), 'image')}, of {counted(len(prompts), 'prompt')}"
        note += ", best to worst."
    for name, rows in pairs.items():
        if len(rows) < num_pairs[name]:
            note += f" {len(rows):,} of {counted(num_pairs[name], 'pair')} of {visible(name)}."
    note += _unseen(images)
    places = Markup('<div class="controls"></div><div class="shown"></div>')
    return Markup('<div class="browser">{}{}{}</div>').format(small_print(note), places, json)


def _unseen(images: Sequence[Mapping[str, Any]]) -> str:
    """Return sentences on images that are not shown: damaged ones, and flagged ones."""
    text = ""
    if damaged := sum("damaged" in image for image in images):
        text += f" {counted(damaged, 'image')} cannot be decoded: ppod-data verify names the files."
    if flagged := sum("flagged" in image for image in images):
        text += (
            f" The model's safety checker flagged {flagged:,} of them: they are blurred until you click them."
        )
    return text


def _prompts(samples: Sequence[Mapping[str, Any]], scores: Mapping[str, NDArray[np.float64]]) -> Markup:
    """Return a table of prompts with their image counts and mean scores."""
    rows_of: dict[str, list[int]] = {}
    for i, row in enumerate(samples):
        rows_of.setdefault(row["prompt"], []).append(i)
    rows = [
        [visible(prompt), f"{len(rows):,}", *(_mean_and_range(column[rows]) for column in scores.values())]
        for prompt, rows in list(rows_of.items())[:_MAX_PROMPT_ROWS]
    ]
    more = len(rows_of) - len(rows)
    if not rows:
        return Markup()
    note = small_print(f"and {more:,} more prompts") if more > 0 else Markup()
    return Markup('<div class="prompts">{}</div>{}').format(table(["prompt", "images", *scores], rows), note)


def _form(values: Iterable[float | None]) -> tuple[int, bool]:
    """Return the digits that tell these numbers apart, and whether they are of a power of ten."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    form = spread(min(known), max(known)) if known else Precision(2)
    return form.digits, form.is_power


def _mean_and_range(values: NDArray[np.float64]) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return UNKNOWN
    low, high = float(known.min()), float(known.max())
    shown = spread(low, high).number
    return f"{shown(float(known.mean()))} ({shown(low)} … {shown(high)})"


def _score_format(scores: Mapping[str, Any]) -> Callable[[float | None], str]:
    """Return the number format of a table's scores."""
    edges = scores["histogram"]["edges"]
    return spread(edges[0], edges[-1]).number if edges else fixed


def _source(data: bytes) -> dict[str, Any]:
    """Return the data URI of an image file, or the reason that it cannot be shown."""
    try:
        return {"src": _data_uri(data)}
    except DamagedError as error:
        return {"src": "", "damaged": visible(str(error))}


def _data_uri(data: bytes) -> str:
    """Return the image as a data URI of its decoded pixels, so that no other content of the file reaches the page.

    Raises DamagedError for a file that is not an image.
    """
    image = decode_image(data)
    buffer = io.BytesIO()
    if max(image.size) <= _KEPT_SIDE:
        image.save(buffer, format="PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    image.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
