"""Data sets from the images of a label file that belong to no data set, with chains computed for them.

Files are read twice. The first pass collects the images, whose hashes are part of the spec. When every shard exists,
the ordinary import reads the labels. Images are spooled to a hidden file in the data set's folder; memory holds only
hashes.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.errors import ConfigError
from ppod_data.format.prompts import normalise, unprintable
from ppod_data.generation.generate import GenerateSummary, generate
from ppod_data.generation.given_images import build_forward_spec, forward_records
from ppod_data.labels.answers import Bad, BadRowError, Comparison, Image, Rating, each, shown
from ppod_data.labels.formats.by_name import FORMATS, Format
from ppod_data.labels.matching import image_file, pixels_of, read_image
from ppod_data.storage.files import DataPath, is_being_written, is_temporary, remove, temporary_beside
from ppod_data.support.progress import SILENT, Progress

_SPOOL = "images"
_BATCH = 1_024


def build_dataset(
    root: DataPath,
    path: Path,
    model: DiffusionModel,
    *,
    format: str,
    license: str = "unknown",
    skip_bad: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> GenerateSummary:
    """Generate the data set `root` from the images of the label file or folder `path`; existing shards are kept.

    Args:
        format: one of FORMATS.
        license: license of the data set.
        skip_bad: leave out answers whose images or prompt cannot be used, instead of stopping at the first.
        progress: shows the number of records read, then counts images.
        options: options of `build_forward_spec`.

    Raises:
        ConfigError: an answer without usable images, no images, or an invalid option.
        SpecMismatchError: the folder holds a data set of other images or options.
        DamagedError: a file that cannot be read to its end.
        NonFiniteError: the model returned NaN or infinity; the shard is not written.
    """
    with foreign_images(root, path, format=format, skip_bad=skip_bad, progress=progress) as collected:
        spec = build_forward_spec(model, prompts=tuple(collected.prompts), images=collected.images, **options)
        return generate(
            root,
            spec,
            model,
            shards=range(spec.num_shards),
            license=license,
            records=forward_records(collected.read),
            progress=progress,
        )


class ForeignImages:
    """Images of a label file by prompt, in the file's order, with their bytes in a spool file.

    Images of one prompt with the same pixels are one image, the first.
    """

    def __init__(self, spool: BinaryIO) -> None:
        self.prompts: dict[str, dict[str, None]] = {}
        """prompt, normalised -> the sha256 of its images."""
        self.num_records = self.num_rejected = 0
        self._spool = spool
        self._pixels: dict[str, str] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._first: dict[tuple[str, str], str] = {}

    @property
    def images(self) -> list[list[str]]:
        """Return the sha256 of each prompt's images."""
        return [list(images) for images in self.prompts.values()]

    def read(self, sha256: str) -> bytes:
        """Return the bytes of an image file."""
        offset, nbytes = self._places[sha256]
        self._spool.seek(offset)
        return self._spool.read(nbytes)

    def add(self, prompt: str | None, images: list[Image], folder: Path) -> None:
        """Add all images of one answer, or none.

        Raises:
            BadRowError: an image or prompt that cannot be a sample.
        """
        if prompt is None:
            raise BadRowError("no prompt: chains need a prompt for every image")
        text = normalise(prompt)
        if bad := unprintable(text):
            raise BadRowError(f"the prompt holds the control character {bad}")
        files = [_bytes_of(image, folder) for image in images]
        hashes = [hashlib.sha256(data).hexdigest() for data in files]
        for image, sha256, data in zip(images, hashes, files, strict=True):
            if sha256 not in self._pixels:
                try:
                    self._pixels[sha256] = pixels_of(data)
                except BadRowError as error:
                    raise BadRowError(f"{shown(image.key)}: {error}" if image.key else str(error)) from error
        pixels = [self._pixels[sha256] for sha256 in hashes]
        if len(set(pixels)) < len(pixels):
            raise BadRowError("an image compared with itself")
        of_prompt = self.prompts.setdefault(text, {})
        for sha256, data, pixel_hash in zip(hashes, files, pixels, strict=True):
            if self._first.setdefault((text, pixel_hash), sha256) == sha256:
                of_prompt[sha256] = None
                self._keep(sha256, data)

    def _keep(self, sha256: str, data: bytes) -> None:
        if sha256 not in self._places:
            self._places[sha256] = (self._spool.seek(0, 2), len(data))
            self._spool.write(data)


@contextlib.contextmanager
def foreign_images(
    root: DataPath,
    path: Path,
    *,
    format: str,
    skip_bad: bool = False,
    progress: Progress = SILENT,
) -> Iterator[ForeignImages]:
    """Collect the images of the label file or folder `path` for a data set in `root`, inside the block.

    Args:
        skip_bad: leave out answers whose images or prompt cannot be used, instead of stopping at the first.
        progress: shows the number of records read.

    Raises:
        ConfigError: an answer without usable images, or no images.
        DamagedError: a file that cannot be read to its end.
    """
    if format not in FORMATS:
        raise ConfigError(f"format {format!r} is unknown: choose one of {', '.join(FORMATS)}")
    files = FORMATS[format].files(path)
    new = not root.exists()
    try:
        _remove_abandoned(root)
        with temporary_beside(root / _SPOOL) as temporary, temporary.open("w+b") as spool:
            collected = ForeignImages(spool)
            for file in files:
                _gather(file, FORMATS[format], collected, skip_bad, progress)
            if not collected.prompts:
                raise ConfigError(
                    f"{path}: no answer has its images in the file or next to it: copy the image files there, or "
                    "import into the data set of the images, without --model"
                )
            yield collected
    finally:
        if new and isinstance(root, Path) and root.is_dir() and not any(root.iterdir()):
            root.rmdir()


def _remove_abandoned(root: DataPath) -> None:
    """Remove the spool of a killed import, which may be as large as all images.

    The spool of a data set in an object store is elsewhere.
    """
    if not isinstance(root, Path):
        return
    for path in root.glob(f".{_SPOOL}.tmp-*"):
        if is_temporary(path) and not is_being_written(path):
            remove(path)


def _gather(file: Path, format: Format, collected: ForeignImages, skip_bad: bool, progress: Progress) -> None:
    for record in format.records(file):
        for answer in each(record, format.parse):
            try:
                _take(answer, file.parent, collected)
            except BadRowError as error:
                collected.num_rejected += 1
                if not skip_bad:
                    columns = f" ({record.columns})" if record.columns else ""
                    raise ConfigError(
                        f"{record.file}:{record.number}: {error}{columns}: correct the file, or leave such rows out "
                        "with --skip-bad"
                    ) from error
        collected.num_records += 1
        if collected.num_records % _BATCH == 0:
            progress.status(f"{collected.num_records:,} records read")
    progress.status(f"{collected.num_records:,} records read")


def _take(answer: Any, folder: Path, collected: ForeignImages) -> None:
    match answer:
        case Comparison():
            collected.add(answer.prompt, [answer.a, answer.b], folder)
        case Rating():
            collected.add(answer.prompt, [answer.image], folder)
        case Bad():
            raise BadRowError(answer.reason)


def _bytes_of(image: Image, folder: Path) -> bytes:
    if image.data is not None:
        return image.data
    path = image_file(image.key, folder) if image.key is not None else None
    if path is None:
        raise BadRowError(
            f"{shown(image.key)} has no bytes in the file, and no such image file is next to it"
        )
    return read_image(path)
