"""The reward `ocr`: how much of the text that a prompt quotes can be read in the image.

RapidOCR finds and reads lines of text with PP-OCRv6 (small), whose ONNX weights are part of its package: nothing is
downloaded. It runs on the CPU with one thread, in about 0.3 s for an image.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ppod_data.errors import ConfigError
from ppod_data.rewards.quoted_text import quoted, share_read
from ppod_data.rewards.weights import identity

_FINDER = "PP-OCRv6_det_small.onnx"
_READER = "PP-OCRv6_rec_small.onnx"
_WORD = "OPEN"
_FORMULA = "share of the quoted text that is read, upright lines, NFKC, folded case, no spaces"


@dataclass(frozen=True)
class OcrReward:
    """1 − (normalised edit distance between the quoted text and what is read), from 0 to 1."""

    revision: str
    engine: Any
    """rapidocr's RapidOCR."""
    name: str = "ocr"

    def check_prompt(self, prompt: str) -> None:
        """Raise ConfigError for a prompt without quoted text."""
        if not quoted(prompt):
            raise ConfigError(
                f'ocr: the prompt {prompt[:60]!r} quotes no text: write what the image shall say in "quotation marks"'
            )

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """Return a score from 0 to 1 for each image. Raises ConfigError for a prompt without quoted text."""
        for prompt in prompts:
            self.check_prompt(prompt)
        return [
            share_read(quoted(prompt), self.read(image))
            for prompt, image in zip(prompts, images, strict=True)
        ]

    def read(self, image: Image.Image) -> str:
        """Return the lines of text in an image, from top to bottom and left to right."""
        blue_green_red = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
        return " ".join(self.engine(blue_green_red).txts or ())


def build(device: str = "cpu") -> OcrReward:
    """Load RapidOCR with the weights in its package. It runs on the CPU, whatever `device`.

    Raises:
        ConfigError: a package or its weights are missing or damaged.
    """
    missing = [name for name in ("rapidocr", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ocr needs {' and '.join(missing)}: pip install 'ppod[ocr]'")
    import cv2
    import rapidocr

    models = Path(rapidocr.__file__).parent / "models"
    files = [models / _FINDER, models / _READER]
    if absent := [file.name for file in files if not file.is_file()]:
        raise ConfigError(
            f"ocr: {models} lacks {' and '.join(absent)}: pip install --force-reinstall rapidocr"
        )
    cv2.setNumThreads(1)
    engine = rapidocr.RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,  # a text that stands on its head is not read
            "Det.model_path": str(files[0]),
            "Rec.model_path": str(files[1]),
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
    reward = OcrReward(f"rapidocr {version('rapidocr')}, PP-OCRv6 small {identity(_FORMULA, files)}", engine)
    _check_weights(reward, models)
    return reward


def _check_weights(reward: OcrReward, folder: Path) -> None:
    """Raise ConfigError if a word cannot be read: the engine loads damaged weights only when they are needed."""
    sign = Image.new("RGB", (96, 96), "white")  # the engine enlarges the shorter side to 736 pixels
    ImageDraw.Draw(sign).text((8, 36), _WORD, font=ImageFont.load_default(20), fill="black")
    try:
        seen = reward.read(sign)
    except Exception as error:  # onnxruntime's classes have no common base
        seen = f"{type(error).__name__}: {error}"
    if seen != _WORD:
        raise ConfigError(
            f"ocr: the weights in {folder} are damaged, a drawn {_WORD!r} gives {seen[:80]!r}: "
            "pip install --force-reinstall --no-cache-dir rapidocr"
        )
