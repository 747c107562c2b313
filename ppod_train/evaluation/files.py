"""An evaluation as a folder: eval.json, images.png with the first images of each prompt, thumbnails.png of all.

eval.json, format 1:
    format                 1
    model, adapter         names of the evaluated policy, as the user gave them (adapter: null without an adapter)
    policy_fingerprint     sha256 of the loaded weights and configurations
    height, width          image size in pixels; null or absent: the model's own size
    noisy_steps            steps that draw noise, as in a spec; null or absent: all
    seed, num_images_per_prompt, num_inference_steps, guidance_scale, ddim_eta, negative_prompt, batch_size,
    validation             settings of the images (`EvalSettings`)
    scorer, check_scorer   {"name", "revision"}; check_scorer is null without a check scorer
    overall                metrics over all prompts, explained in `Metrics`: num_images,
                           num_failed, num_check_failed, reward_mean, reward_low, reward_high,
                           correct, correct_low, correct_high, check_reward_mean, check_gain, check_gain_low,
                           check_gain_high, check_correct, diversity, win_rate, win_rate_low, win_rate_high,
                           gain, gain_low, gain_high; null if not measured
    prompts                {prompt: the same metrics}, in the order of evaluation
    images                 {prompt: {"rewards": [K], "correct": [K] or null, and by the check scorer
                           "check_rewards", "check_correct"}, and "statistics": {name: [K]} of the images};
                           a reward is null if the image has no score
    statistics             {name: {"mean", "spread", "change", "change_low", "change_high", "effect"}} over all prompts
                           (`ppod_train.evaluation.image_changes`); absent in evaluations of earlier versions
    usage                  {"requests", "prompt_tokens", "answer_tokens"} of a scorer that counts them; absent otherwise
    sheet                  {"prompts": the rows of images.png, "columns": images per row,
                           "width", "height": pixels of one image in images.png}

images.png has no labels and no gaps: row r, column k is image k of the sheet's prompt r. Images are reduced if the file
would have more than 2^27 pixels. thumbnails.png has all images in the same form, as 8x8 averages; evaluations of
earlier versions, and of more than two million images, lack it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppod_data.errors import DamagedError
from ppod_data.format.images import decode_image, encode_png
from ppod_data.rewards.usage import Usage
from ppod_data.storage.files import atomic_write, read_small
from ppod_data.storage.json_reader import read_object
from ppod_data.storage.unreadable import raise_if_unreadable
from ppod_train.evaluation.image_changes import ImageChange
from ppod_train.evaluation.image_statistics import STATISTICS, THUMBNAIL_SIDE, Pixels
from ppod_train.evaluation.metrics import EvalResult, Metrics, PromptMeasurement, Scorer
from ppod_train.evaluation.settings import EvalSettings
from ppod_train.evaluation.statistics import FloatArray

FORMAT = 1
EVAL_NAME = "eval.json"
SHEET_NAME = "images.png"
THUMBNAILS_NAME = "thumbnails.png"
MAX_SHEET_PROMPTS = 12
_MAX_SHEET, _MAX_SHEET_PIXELS = 1 << 29, 1 << 27
"""The most bytes and the most pixels of images.png and thumbnails.png, for the writer and the reader."""

_LATER = ("height", "width", "noisy_steps")
"""Settings that older evaluations lack."""


def write_evaluation(folder: Path, result: EvalResult) -> None:
    """Write images.png, then eval.json; an evaluation is complete if its eval.json exists."""
    prompts = sheet_prompts(result)
    sheet = contact_sheet([result.measurements[prompt].images for prompt in prompts])
    rows = len(prompts)
    columns = len(result.measurements[prompts[0]].images)
    record = {
        "format": FORMAT,
        "model": result.model,
        "adapter": result.adapter,
        "policy_fingerprint": result.policy_fingerprint,
        **{name: value for name, value in asdict(result.settings).items() if name != "prompts"},
        "scorer": asdict(result.scorer),
        "check_scorer": asdict(result.check_scorer) if result.check_scorer else None,
        "overall": asdict(result.overall),
        "prompts": {prompt: asdict(metrics) for prompt, metrics in result.prompts.items()},
        "images": {prompt: _values(item) for prompt, item in result.measurements.items()},
        "statistics": {name: asdict(change) for name, change in result.images.items()},
        **({} if result.usage is None else {"usage": asdict(result.usage)}),
        "sheet": {
            "prompts": prompts,
            "columns": columns,
            "width": sheet.width // columns,
            "height": sheet.height // rows,
        },
    }
    atomic_write(folder / SHEET_NAME, encode_png(sheet))
    write_thumbnails(folder / THUMBNAILS_NAME, [item.thumbnails for item in result.measurements.values()])
    atomic_write(folder / EVAL_NAME, (json.dumps(record, ensure_ascii=False) + "\n").encode())


def read_evaluation(folder: Path) -> EvalResult:
    """Read an evaluation written by `write_evaluation`, including the kept images.

    Raises:
        DamagedError: the folder holds no readable evaluation.
    """
    try:
        record = read_object(folder / EVAL_NAME)
        tiles = cut_sheet(read_sheet(folder / SHEET_NAME, record["sheet"])[1], record["sheet"])
        names = [field.name for field in fields(EvalSettings) if field.name not in ("prompts", *_LATER)]
        settings = {name: record[name] for name in names} | {name: record.get(name) for name in _LATER}
        thumbnails = read_thumbnails(
            folder / THUMBNAILS_NAME, [len(item["rewards"]) for item in record["images"].values()]
        )
        return EvalResult(
            model=record["model"],
            adapter=record["adapter"],
            policy_fingerprint=record["policy_fingerprint"],
            settings=EvalSettings(prompts=tuple(record["prompts"]), **settings),
            scorer=Scorer(**record["scorer"]),
            check_scorer=Scorer(**record["check_scorer"]) if record["check_scorer"] else None,
            overall=Metrics(**record["overall"]),
            prompts={prompt: Metrics(**metrics) for prompt, metrics in record["prompts"].items()},
            measurements={
                prompt: replace(
                    _measurement(values, record["prompts"][prompt]["diversity"], tiles.get(prompt, ())),
                    thumbnails=small,
                )
                for (prompt, values), small in zip(record["images"].items(), thumbnails, strict=True)
            },
            images={name: ImageChange(**change) for name, change in record.get("statistics", {}).items()},
            usage=Usage(**record["usage"]) if "usage" in record else None,
        )
    except (
        OSError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        DamagedError,
    ) as error:
        raise_if_unreadable(error, folder)
        raise DamagedError(f"{folder} holds no readable evaluation ({error}): evaluate again") from error


def read_sheet(path: Path, layout: Mapping[str, Any]) -> tuple[bytes, Image.Image]:
    """Return the PNG bytes of a contact sheet and its pixels.

    Args:
        path: the PNG file.
        layout: the object "sheet" of eval.json.

    Raises:
        DamagedError: not a PNG file, or a PNG file larger than its limits.
        ValueError: the image is smaller than the layout.
    """
    data = read_small(path, _MAX_SHEET)
    sheet = decode_image(data, formats=("PNG",), max_pixels=_MAX_SHEET_PIXELS)
    columns, width, height = (layout[name] for name in ("columns", "width", "height"))
    rows = len(layout["prompts"])
    if not (
        min(columns, width, height) > 0 and columns * width <= sheet.width and rows * height <= sheet.height
    ):
        raise ValueError(f"expected a sheet of {rows} rows of {columns} images of {width} x {height} pixels")
    return data, sheet


def sheet_prompts(result: EvalResult) -> list[str]:
    """Return the prompts shown in images.png: the first twelve."""
    return list(result.measurements)[:MAX_SHEET_PROMPTS]


def contact_sheet(rows: list[tuple[Image.Image, ...]]) -> Image.Image:
    """Paste images of one size edge to edge, one row per prompt; images that are too large for a sheet are reduced."""
    columns, full = max(map(len, rows)), rows[0][0].size
    width, height = tile_size(full, columns * len(rows))
    sheet = Image.new("RGB", (width * columns, height * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            tile = image
            if (width, height) != full:
                tile = image.resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(tile, (x * width, y * height))
    return sheet


def tile_size(size: tuple[int, int], count: int) -> tuple[int, int]:
    """Return the width and height at which `count` images of a size fit a sheet that `read_sheet` accepts.

    The size is the images' own up to 1182 x 1182 pixels for 12 rows of 8 images.
    """
    width, height = size
    scale = math.sqrt(_MAX_SHEET_PIXELS / (count * width * height))
    return size if scale >= 1 else (max(1, int(width * scale)), max(1, int(height * scale)))


def cut_sheet(sheet: Image.Image, layout: Mapping[str, Any]) -> dict[str, tuple[Image.Image, ...]]:
    """Return the images of each prompt of a contact sheet; `layout` is the object "sheet" of eval.json."""
    width, height = layout["width"], layout["height"]
    return {
        prompt: tuple(
            sheet.crop((x * width, y * height, (x + 1) * width, (y + 1) * height))
            for x in range(layout["columns"])
        )
        for y, prompt in enumerate(layout["prompts"])
    }


def write_thumbnails(path: Path, rows: Sequence[Pixels | None]) -> None:
    """Write thumbnails uint8 [K, 8, 8, 3] of each prompt, one row per prompt; no file without them, or for too many."""
    known = [row for row in rows if row is not None]
    if len(known) < len(rows) or not known:
        return
    side, columns = THUMBNAIL_SIDE, max(map(len, known))
    if side * len(known) * side * columns > _MAX_SHEET_PIXELS:
        return
    sheet = np.zeros((side * len(known), side * columns, 3), np.uint8)
    for y, row in enumerate(known):
        strip = row.transpose(1, 0, 2, 3).reshape(side, -1, 3)
        sheet[y * side : (y + 1) * side, : strip.shape[1]] = strip
    atomic_write(path, encode_png(Image.fromarray(sheet)))


def read_thumbnails(path: Path, counts: Sequence[int]) -> list[Pixels | None]:
    """Return the thumbnails of each prompt, of which there are `counts`; None for each if there is no file."""
    if not path.is_file():
        return [None for _ in counts]
    side = THUMBNAIL_SIDE
    image = decode_image(read_small(path, _MAX_SHEET), formats=("PNG",), max_pixels=_MAX_SHEET_PIXELS)
    if image.height != side * len(counts) or image.width < side * max(counts):
        raise ValueError(f"{path.name} holds other images")
    rows = np.asarray(image.convert("RGB"), dtype=np.uint8).reshape(len(counts), side, -1, side, 3)
    return [
        np.ascontiguousarray(row[:, :count].transpose(1, 0, 2, 3))
        for row, count in zip(rows, counts, strict=True)
    ]


def _values(item: PromptMeasurement) -> dict[str, Any]:
    arrays = {
        "rewards": item.rewards,
        "correct": item.correct,
        "check_rewards": item.check_rewards,
        "check_correct": item.check_correct,
    }
    values: dict[str, Any] = {
        name: None if array is None else _or_null(array.tolist()) for name, array in arrays.items()
    }
    if item.statistics is not None:
        values["statistics"] = {
            name: column.tolist() for name, column in zip(STATISTICS, item.statistics.T, strict=True)
        }
    return values


def _or_null(values: list[Any]) -> list[Any]:
    """Replace NaN by None, because JSON has no NaN."""
    return [None if value != value else value for value in values]


def _measurement(
    values: Mapping[str, Any], diversity: float | None, images: tuple[Image.Image, ...]
) -> PromptMeasurement:
    correct, check_rewards, check_correct = (
        values[key] for key in ("correct", "check_rewards", "check_correct")
    )
    return PromptMeasurement(
        rewards=np.array(values["rewards"], dtype=np.float64),
        correct=None if correct is None else np.array(correct, dtype=np.bool_),
        check_rewards=None if check_rewards is None else np.array(check_rewards, dtype=np.float64),
        check_correct=None if check_correct is None else np.array(check_correct, dtype=np.bool_),
        diversity=diversity,
        statistics=_statistics(values.get("statistics")),
        images=images,
    )


def _statistics(columns: Mapping[str, Any] | None) -> FloatArray | None:
    """Return the statistics [K, 5] of a prompt's images; None if they were not measured."""
    if columns is None:
        return None
    return np.stack([np.array(columns[name], dtype=np.float64) for name in STATISTICS], axis=1)
