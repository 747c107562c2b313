"""Which sample of a data set an image in a label file is: by its id, by the hash of its pixels, or by its place."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import DamagedError
from ppod_data.format.images import decode_image, pixels_sha256
from ppod_data.format.prompts import prompt_id
from ppod_data.labels.answers import BadRowError, Image, Place, reason_of, shown
from ppod_data.storage.files import read_small

_CACHED = 100_000
_MAX_FILE = 256 << 20
_AMBIGUOUS = -1
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that was uploaded."""


class ForeignImageError(BadRowError):
    """The image is none of the data set's."""


@dataclass(frozen=True, eq=False)
class SampleIndex:
    """The committed samples of a data set; a sample is its row, from 0, a prompt its number, from 0."""

    ids: Any
    """Arrow array of the sample ids."""
    prompts: Any
    """Arrow array of the prompts, and `prompt_ids` of their ids."""
    prompt_ids: Any
    prompt_of: NDArray[np.int32]
    """The prompt of each sample."""
    _rows: Mapping[str, int]
    """Sample ids and hashes of pixels."""
    _places: Mapping[Place, int]
    _prompt_rows: Mapping[str, int]
    """Prompt ids."""
    _seen_prompts: dict[str, int | None] = field(default_factory=dict)
    _seen_images: dict[Path | bytes, str] = field(default_factory=dict)
    """The hash of the pixels, by a file's path or the sha256 of the bytes."""

    @classmethod
    def read(cls, dataset: Dataset) -> "SampleIndex":
        spec = dataset.spec
        table = dataset.samples(["sample_id", "prompt_id", "image_index", "image_pixels_sha256"])
        prompt_rows = {name: row for row, name in enumerate(spec.prompt_ids)}
        ids = table["sample_id"].to_pylist()
        prompt_of = np.array([prompt_rows[name] for name in table["prompt_id"].to_pylist()], np.int32)
        rows: dict[str, int] = {}
        column = table["image_pixels_sha256"].to_pylist()
        for row, pixels in enumerate(column):
            rows[pixels] = _AMBIGUOUS if pixels in rows else row
        for row, (prompt, pixels) in enumerate(zip(prompt_of.tolist(), column, strict=True)):
            if rows[pixels] == _AMBIGUOUS:
                key = _of_prompt(pixels, prompt)
                rows[key] = _AMBIGUOUS if key in rows else row
        ks = table["image_index"].to_pylist()
        places = {
            Place(prompt + 1, k): row
            for row, (prompt, k) in enumerate(zip(prompt_of.tolist(), ks, strict=True))
        }
        rows |= {name: row for row, name in enumerate(ids)}
        return cls(
            ids=pa.array(ids, pa.string()),
            prompts=pa.array(spec.prompts, pa.string()),
            prompt_ids=pa.array(spec.prompt_ids, pa.string()),
            prompt_of=prompt_of,
            _rows=rows,
            _places=places,
            _prompt_rows=prompt_rows,
        )

    def find(self, image: Image, folder: Path, prompt: int | None = None) -> int:
        """The sample that an image is; files are looked for in `folder`, the label file's own.

        Args:
            prompt: the number of the prompt, where the record names one: it decides between samples of several
                prompts that have the same pixels.

        Raises ForeignImageError where it is none, BadRowError where several samples have these pixels or the
        bytes are no image.
        """
        if image.place is not None:
            return self._at(image.place)
        row = self._by_key(image.key)
        if row is None and (pixels := self._pixels_of(image, folder)) is not None:
            row = self._rows.get(pixels)
            if row == _AMBIGUOUS and prompt is not None:
                row = self._rows.get(_of_prompt(pixels, prompt), _AMBIGUOUS)
        if row is None:
            raise ForeignImageError(f"{shown(image.key or 'an image')} is none of the data set's images")
        if row == _AMBIGUOUS:
            raise BadRowError("several samples have these pixels: name the image by its sample_id")
        return row

    def _at(self, place: Place) -> int:
        row = self._places.get(place)
        if row is None:
            raise ForeignImageError(f"image {place.k + 1} of prompt {place.prompt} is not in the data set")
        return row

    def _by_key(self, key: str | None) -> int | None:
        """The sample whose id, or hash of pixels, is the key, or the name of the file or address that it is."""
        if key is None:
            return None
        for name in (key, *_stems(key)):
            if (row := self._rows.get(name)) is not None:
                return row
        return None

    def _pixels_of(self, image: Image, folder: Path) -> str | None:
        """The hash of the pixels of an image's bytes, or of the file that its key names; None without either."""
        data, path = image.data, None
        if data is None:
            path = image_file(image.key, folder) if image.key is not None else None
            if path is None:
                return None
        seen = path if path is not None else hashlib.sha256(data or b"").digest()
        if seen not in self._seen_images:
            if len(self._seen_images) >= _CACHED:
                self._seen_images.clear()
            self._seen_images[seen] = pixels_of(data or b"") if path is None else _pixels_of_file(path)
        return self._seen_images[seen]

    def find_prompt(self, prompt: str) -> int | None:
        """The number of a prompt; None where it is none of the data set's."""
        if prompt not in self._seen_prompts:
            if len(self._seen_prompts) >= _CACHED:
                self._seen_prompts.clear()
            self._seen_prompts[prompt] = self._prompt_rows.get(prompt_id(prompt)) if prompt.strip() else None
        return self._seen_prompts[prompt]


def _stems(key: str) -> Iterator[str]:
    """What may be a sample's id in a file's name or an address, without the prefix that uploads get."""
    for address in (key, key.partition("?")[0]):
        stem = PurePosixPath(unquote(address).replace("\\", "/")).name.split(".")[0]
        yield stem
        yield _UPLOADED.sub("", stem)


def image_file(key: str, folder: Path) -> Path | None:
    """The file of an image that a key names, inside `folder`; None where there is none.

    Links in the folder are followed, since large images often lie elsewhere; a key itself cannot lead out of it.
    """
    home = os.path.abspath(folder)
    try:
        path = Path(os.path.normpath(os.path.join(home, key)))
        inside = path.is_relative_to(home) and path.is_file()
        return path if inside and path.stat().st_size <= _MAX_FILE else None
    except (OSError, ValueError):  # a key may be no possible path
        return None


def read_image(path: Path) -> bytes:
    """The bytes of a file that `image_file` gave. Raises BadRowError, with the reason, for one that cannot be read."""
    try:
        return read_small(path, _MAX_FILE)
    except (OSError, DamagedError) as error:
        raise BadRowError(f"the image {path.name} cannot be read ({reason_of(error)})") from error


def _pixels_of_file(path: Path) -> str:
    data = read_image(path)
    try:
        return pixels_of(data)
    except BadRowError as error:
        raise BadRowError(f"{path.name}: {error}") from error


def _of_prompt(pixels: str, prompt: int) -> str:
    """The key of an image whose pixels samples of several prompts have."""
    return f"{pixels} {prompt}"


def pixels_of(data: bytes) -> str:
    """The hash of an image's pixels. Raises BadRowError, with the reason, for bytes that are no image."""
    try:
        return pixels_sha256(decode_image(data))
    except DamagedError as error:
        raise BadRowError(str(error)) from error
