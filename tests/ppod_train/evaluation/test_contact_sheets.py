"""Every contact sheet that an evaluation writes can be read back, however large its images are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.format.images import encode_png
from ppod_train.evaluation import files
from ppod_train.evaluation.evaluate import evaluate
from ppod_train.evaluation.files import contact_sheet, read_evaluation, tile_size, write_evaluation
from tests.ppod_train.evaluation.test_evaluate import PROMPTS, SETTINGS, Brightness
from tests.support.training import SETTINGS as TRAINING
from tests.support.training import run

FULL = 2 * 6 * 16 * 16
"""Pixels of the sheet of SETTINGS: two prompts with six images of the tiny pipeline."""


def test_tiles_are_reduced_until_the_sheet_fits_the_limit_of_the_reader() -> None:
    limit = 2**27
    for size in ((1664, 1328), (1328, 1664), (1183, 1183), (4096, 512)):
        width, height = tile_size(size, 12 * 8)
        assert 0.99 * limit < 12 * 8 * width * height <= limit
        assert width / height == pytest.approx(size[0] / size[1], rel=5e-3)
    for size in ((1182, 1182), (1024, 1024), (16, 16)):
        assert tile_size(size, 12 * 8) == size
    assert tile_size((1664, 1328), 8 * 7) == (1664, 1328)


def test_a_sheet_within_the_limit_keeps_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
    rows = [tuple(map(Image.fromarray, row)) for row in pixels]
    whole = Image.fromarray(pixels.transpose(0, 2, 1, 3, 4).reshape(32, 48, 3))
    monkeypatch.setattr(files, "_MAX_SHEET_PIXELS", 32 * 48)
    assert encode_png(contact_sheet(rows)) == encode_png(whole)
    monkeypatch.setattr(files, "_MAX_SHEET_PIXELS", 32 * 48 - 1)
    assert contact_sheet(rows).size == (45, 30)


def test_an_evaluation_of_images_too_large_for_a_sheet_is_read_back(
    tiny_model: DiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = evaluate(tiny_model, Brightness(), SETTINGS)
    monkeypatch.setattr(files, "_MAX_SHEET_PIXELS", FULL // 3)
    write_evaluation(tmp_path, result)
    sheet = json.loads((tmp_path / "eval.json").read_text())["sheet"]
    assert (sheet["columns"], sheet["width"], sheet["height"]) == (6, 9, 9)
    read = read_evaluation(tmp_path)
    assert read.overall == result.overall
    for prompt in PROMPTS:
        full, kept = (item.measurements[prompt].images for item in (result, read))
        assert [image.size for image in kept] == [(9, 9)] * 6
        for image, small in zip(full, kept, strict=True):
            assert np.mean(np.asarray(small)) == pytest.approx(np.mean(np.asarray(image)), abs=4)
    assert evaluate(tiny_model, Brightness(), SETTINGS, baseline=read).overall.gain == 0


def test_more_thumbnails_than_a_file_holds_are_left_out(
    tiny_model: DiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = evaluate(tiny_model, Brightness(), SETTINGS)
    monkeypatch.setattr(files, "_MAX_SHEET_PIXELS", 2 * 6 * 8 * 8 - 1)
    write_evaluation(tmp_path, result)
    assert not (tmp_path / "thumbnails.png").exists()
    assert read_evaluation(tmp_path).measurements[PROMPTS[0]].thumbnails is None


def test_a_run_on_images_too_large_for_a_sheet_is_evaluated_again_and_again(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second evaluation reads the first one, and the model card reads the best one."""
    monkeypatch.setattr(files, "_MAX_SHEET_PIXELS", 2 * 4 * 8 * 8)
    settings = replace(TRAINING, num_train_steps=2, eval_every=1)
    summary, _ = run(recorded, tmp_path, tiny_pipeline, redness, settings)
    assert summary.steps == 2
    assert "| before" in (tmp_path / "policy" / "README.md").read_text()
