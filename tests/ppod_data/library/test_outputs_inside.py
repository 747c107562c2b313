"""No output for others, and no new data set, lands in a folder where a data set keeps its own files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from ppod_data import generate
from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_data.labels.importing import import_labels
from ppod_data.library.editing import merge
from ppod_data.library.exporting import export_images, export_pairs, write_page
from ppod_data.library.labelling import images_of_labels
from ppod_data.library.sharing import pull, push
from tests.support.label_cases import sample_ids, write_lines
from tests.support.toy import files, make_dataset

NO_MODEL = cast(Any, None)
"""Refusals come before a model is used."""

WRITERS: dict[str, tuple[Callable[[Dataset, Path], object], str]] = {
    "pair export": (lambda data, out: export_pairs(data, out, name="n", format="trl"), "--out"),
    "pair export of a folder": (
        lambda data, out: export_pairs(data, out, name="n", format="flow-factory"),
        "--out",
    ),
    "image export": (export_images, "--out"),
    "page": (write_page, "--html"),
    "merge": (lambda data, out: merge(out, [data.root]), "OUT"),
    "gen": (lambda data, out: generate(out, data.spec, NO_MODEL), "DATASET"),
    "push": (lambda data, out: push(data, f"file://{out}"), "DATASET"),
    "pull": (lambda data, out: pull(f"file://{data.root}", out), "DATASET"),
    "import --model": (
        lambda data, out: images_of_labels(out, "l.jsonl", NO_MODEL, SamplingSettings(), format="table"),
        "DATASET",
    ),
}


@pytest.mark.parametrize(
    "place", ["pairs/x.parquet", "labels/x.parquet", "samples/x", "scores/x/000000.parquet"]
)
@pytest.mark.parametrize("writer", WRITERS)
def test_an_output_in_a_data_set_s_own_folder_is_refused(tmp_path: Path, writer: str, place: str) -> None:
    dataset = make_dataset(tmp_path / "data")
    a, b, *_ = sample_ids(dataset)
    answers = write_lines(tmp_path / "l.jsonl", [{"a": a, "b": b, "label": "a"}])
    import_labels(dataset, answers, format="table", name="n")
    before = files(tmp_path)
    write, option = WRITERS[writer]
    with pytest.raises(ConfigError, match=f"is inside .*data, which is a data set: give another {option}"):
        write(dataset, dataset.root / place)
    assert files(tmp_path) == before


def test_outputs_beside_a_data_set_s_own_folders_are_written(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    write_page(dataset, dataset.root / "page.html")
    export_images(dataset, dataset.root / "images")
    merge(dataset.root / "merge.json", [dataset.root])
    assert Dataset.open(dataset.root).pair_names() == []
