"""Copies of images and pairs for other tools, pages for people, and cards."""

from pathlib import Path
from typing import Any

from ppod_data.format.spec import to_json
from ppod_data.inspect.card import write_card
from ppod_data.inspect.overview import overview
from ppod_data.inspect.viewer import write_viewer
from ppod_data.labels.export.export import ExportSummary as PairsExport
from ppod_data.labels.export.export import export_pairs as export_table
from ppod_data.library.datasets import AnyDataset, open_dataset
from ppod_data.publish.export_images import ExportSummary
from ppod_data.publish.export_images import export as export_files
from ppod_data.storage.files import AnyPath, data_path
from ppod_data.storage.folder_kinds import check_html, check_not_inside
from ppod_data.support.progress import SILENT, Progress


def describe(dataset: AnyDataset) -> dict[str, Any]:
    """Return what is in a data set: spec, sizes, scores, labels, pairs (`ppod_data.inspect.overview`)."""
    opened = open_dataset(dataset)
    return {"spec": to_json(opened.spec), **overview(opened)}


def write_page(dataset: AnyDataset, file: Path, *, max_images: int = 200) -> None:
    """Write an HTML page with images, scores and pairs of a data set.

    Raises:
        ConfigError: The file is not an HTML page, or is inside a folder of a data set, run or evaluation.
    """
    check_not_inside(file, option="--html")
    check_html(file, option="--html")
    write_viewer(open_dataset(dataset), file, max_images=max_images)


def export_images(
    dataset: AnyDataset, out: Path, *, layout: str = "prompt", progress: Progress = SILENT
) -> ExportSummary:
    """Write the images of a data set as PNG files. Raises as `ppod_data.publish.export_images.export`."""
    check_not_inside(out, option="--out")
    return export_files(open_dataset(dataset), out, layout=layout, progress=progress)


def export_pairs(
    dataset: AnyDataset, out: Path, *, name: str, format: str, progress: Progress = SILENT
) -> PairsExport:
    """Write a table of pairs in a format of other tools. Raises as `ppod_data.labels.export.export`.

    A file in a folder of the data set would become one of its tables, so `out` may not be inside one.
    """
    check_not_inside(out, option="--out")
    return export_table(open_dataset(dataset), name=name, format=format, out=out, progress=progress)


def refresh_card(path: AnyPath) -> None:
    """Write README.md and croissant.json of a data set anew."""
    write_card(data_path(path))
