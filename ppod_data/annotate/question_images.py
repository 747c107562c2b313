"""Images of questions. One damaged part of the samples does not keep the images of other parts from being shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.image_reader import read_images
from ppod_data.errors import DamagedError
from ppod_data.format.images import decode_image


@dataclass(frozen=True)
class Unreadable:
    """Samples whose images cannot be shown: one sample, or all samples of a part that cannot be read."""

    sample_ids: frozenset[str]
    reason: str
    refusal: OSError | None = None
    """The system did not let this process read the part, which may be intact."""


def read_question_images(
    dataset: Dataset, sample_ids: Sequence[str]
) -> tuple[dict[str, Image.Image], list[Unreadable]]:
    """Return the images of samples by id, and the samples whose images cannot be shown."""
    files, unreadable = _read_files(dataset, sample_ids)
    images: dict[str, Image.Image] = {}
    for name, data in files.items():
        try:
            images[name] = decode_image(data)
        except DamagedError as error:
            unreadable.append(_one(dataset, name, str(error)))
    explained = images.keys() | {name for each in unreadable for name in each.sample_ids}
    missing = [name for name in sample_ids if name not in explained]
    return images, unreadable + [_one(dataset, name, "the image is missing") for name in missing]


def _one(dataset: Dataset, name: str, reason: str) -> Unreadable:
    return Unreadable(frozenset([name]), f"{dataset.root}: sample {name}: {reason}")


def _read_files(dataset: Dataset, sample_ids: Sequence[str]) -> tuple[dict[str, bytes], list[Unreadable]]:
    """Return the image files of samples, and the parts that cannot be read. Absent samples are skipped."""
    root, spec = dataset.root, dataset.spec
    try:
        return dict(read_images(root, spec, sample_ids)), []
    except (DamagedError, OSError):
        pass  # find the part by reading each part alone, which is slower
    files: dict[str, bytes] = {}
    unreadable: list[Unreadable] = []
    for shard in range(spec.num_shards):
        part = frozenset(spec.shard_sample_ids(shard))
        if part.isdisjoint(sample_ids):
            continue
        try:
            files |= read_images(root, spec, [name for name in sample_ids if name in part])
        except DamagedError as error:
            unreadable.append(Unreadable(part, str(error)))
        except OSError as error:
            unreadable.append(Unreadable(part, str(error), error))
    return files, unreadable
