"""The reward `ocr` with its real weights on text that PIL renders."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from ppod_data.errors import ConfigError
from ppod_data.rewards import PromptReader, load_reward
from ppod_data.rewards.quoted_text import quoted, share_read
from ppod_data.scoring.score import score
from tests.support.toy import make_dataset

pytestmark = pytest.mark.long

SIGN = 'a shop with the sign "OPEN 24h"'


def sign(*lines: str, size: int = 128) -> Image.Image:
    """A light picture with lines of dark text."""
    image = Image.new("RGB", (size, size), (214, 226, 240))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size // 8)
    for number, line in enumerate(lines):
        draw.text((size // 16, size // 8 + number * size // 4), line, font=font, fill=(20, 20, 60))
    return image


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ('a sign that says "Hello World"', ["Hello World"]),
        ("New York with “Hello World” in fireworks and 'Bye'", ["Hello World", "Bye"]),
        ("a dog's toy, the cats' house, rock 'n' roll", ["n"]),
        ("„Grüße“ beside «Salut» and 「こんにちは」", ["Grüße", "Salut", "こんにちは"]),
        ("'it's open' over the door", ["it's open"]),
        ("‘it’s open’ over the door", ["it’s open"]),
        ('a 5" by 7" photograph', []),
        ('empty "" and " " marks', []),
        ("a cat and a dog", []),
    ],
)
def test_quoted_text_is_found_between_quotation_marks(prompt: str, texts: list[str]) -> None:
    assert quoted(prompt) == texts


@pytest.mark.parametrize(
    ("texts", "read", "share"),
    [
        (["Hello World"], "HELLO\nworld", 1.0),
        (["Hello"], "other words around hello here", 1.0),
        (["Hello"], "Helo", 0.8),
        (["Hello"], "Hexlo", 0.8),
        (["Hello"], "Hel lxo", 0.8),
        (["Hello"], "", 0.0),
        (["abc", "12345"], "abc 12", 5 / 8),
        (["①"], "1", 1.0),
    ],
)
def test_the_share_is_one_minus_the_edit_distance_to_the_nearest_part(
    texts: list[str], read: str, share: float
) -> None:
    assert share_read(texts, read) == pytest.approx(share)


def test_text_that_the_image_shows_scores_higher_than_other_text() -> None:
    reward = load_reward("ocr")
    images = [sign("OPEN 24h"), sign("OPEN", "24h"), sign("OPEN"), sign("CLOSED"), sign()]
    exact, two_lines, half, other, blank = reward.score([SIGN] * 5, images)
    assert exact == two_lines == 1.0
    assert half == pytest.approx(4 / 7)
    assert half > other > blank == 0.0
    assert reward.revision.startswith("rapidocr 3.") and "PP-OCRv6" in reward.revision


def test_a_prompt_without_quoted_text_is_declined_with_the_reason(tmp_path: Path) -> None:
    reward = load_reward("ocr")
    assert isinstance(reward, PromptReader)
    reward.check_prompt(SIGN)
    with pytest.raises(ConfigError, match=r"'a cat' quotes no text: write what the image shall say"):
        reward.check_prompt("a cat")
    dataset = make_dataset(tmp_path / "data", prompts=("a cat", SIGN))
    done = score(dataset, reward, name="ocr")
    assert (done.num_scored, done.num_failed) == (3, 3)
    assert "quotes no text" in str(done.first_failure)
    with pytest.raises(ConfigError, match=r"could score none of 6 images .*nothing was written"):
        score(make_dataset(tmp_path / "other"), reward, name="ocr")


ALONE = """
import os, socket, sys
def refuse(*arguments):
    raise AssertionError("a connection was tried")
socket.socket.connect = socket.create_connection = refuse
from ppod_data.rewards import load_reward
from PIL import Image
reward = load_reward("ocr")
before = len(os.listdir("/proc/self/task"))
assert reward.score(['"A"'], [Image.new("RGB", (64, 64))]) == [0.0]
print(reward.revision)
import cv2
assert cv2.getNumThreads() == 1
session = reward.engine.text_det.session.session.get_session_options()
assert session.intra_op_num_threads == session.inter_op_num_threads == 1
"""


def test_nothing_is_downloaded_and_one_thread_computes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == load_reward("ocr").revision
    assert done.stderr == ""


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"ocr needs onnxruntime: pip install 'ppod\[ocr\]'"):
        load_reward("ocr")


@pytest.mark.parametrize("name", ["PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"])
@pytest.mark.parametrize("size", [None, 0, 100_000])
def test_weights_that_are_missing_or_cut_off_are_one_line(
    name: str, size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rapidocr

    (tmp_path / "models").mkdir()
    for file in (Path(rapidocr.__file__).parent / "models").glob("*.onnx"):
        (tmp_path / "models" / file.name).symlink_to(file)
    data = (tmp_path / "models" / name).read_bytes()
    (tmp_path / "models" / name).unlink()
    if size is not None:
        (tmp_path / "models" / name).write_bytes(data[:size])
    monkeypatch.setattr(rapidocr, "__file__", str(tmp_path / "__init__.py"))
    reason = f"lacks {name}" if size is None else "are damaged, a drawn 'OPEN' gives"
    with pytest.raises(ConfigError, match=rf"{reason}.*pip install --force-reinstall"):
        load_reward("ocr")
