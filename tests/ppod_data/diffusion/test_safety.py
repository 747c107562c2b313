"""What a model's own safety checker says stands in `flagged`; no image is changed, and nothing else either."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ppod_cli.data import app as data_app
from ppod_cli.gen import app as gen_app

from ppod_data.annotate.questions import read_questions
from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.exclusions import exclude
from ppod_data.diffusion.models.model import load_model
from ppod_data.errors import ConfigError, DamagedError, SpecMismatchError
from ppod_data.format.images import decode_image
from ppod_data.format.manifest import read_manifest
from ppod_data.format.tables import CHECKED_SAMPLES, SAMPLES, read_table, write_table
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate
from ppod_data.inspect.card import card_text, write_card
from ppod_data.inspect.croissant import croissant_text
from ppod_data.inspect.overview import overview
from ppod_data.inspect.viewer import write_viewer
from ppod_data.integrity.purge import purge
from ppod_data.integrity.verify import verify
from ppod_data.publish.export_images import export
from tests.support.command import call
from tests.support.faults import visible
from tests.support.pipelines import save_tiny_pipeline

SMALL: dict[str, Any] = {"num_images_per_prompt": 8, "num_inference_steps": 3, "images_per_shard": 8}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline with a safety checker."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "checked", safety=True)


def make(root: Path, pipeline: Path, *, safety_check: bool) -> Dataset:
    model = load_model(str(pipeline), safety_check=safety_check)
    spec = build_spec(model, prompts=("a cat", "a dog"), **SMALL)
    generate(root, spec, model, shards=range(spec.num_shards))
    write_card(root)
    return Dataset.open(root)


@pytest.fixture(scope="module")
def checked(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make(tmp_path_factory.mktemp("checked") / "data", pipeline, safety_check=True)


@pytest.fixture(scope="module")
def plain(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make(tmp_path_factory.mktemp("plain") / "data", pipeline, safety_check=False)


def flags(dataset: Dataset) -> list[bool]:
    values: list[bool] = dataset.samples(["flagged"])["flagged"].to_pylist()
    return values


def test_the_verdicts_are_those_of_diffusers_itself(checked: Dataset, pipeline: Path) -> None:
    from diffusers import StableDiffusionPipeline

    whole = StableDiffusionPipeline.from_pretrained(pipeline)
    said = []
    for row in checked.samples(["image"]).to_pylist():
        pixels = np.asarray(decode_image(row["image"]["bytes"]), np.float32)[None] / 255
        _, flagged = whole.run_safety_checker(pixels, "cpu", whole.text_encoder.dtype)
        said.append(bool(flagged[0]))
    assert flags(checked) == said
    assert 0 < sum(said) < len(said), "a test of both verdicts"


def test_no_image_is_changed_and_none_is_blackened(checked: Dataset, plain: Dataset) -> None:
    columns = ["prompt_id", "image_index", "image_sha256", "log_probs"]
    assert checked.samples(columns).to_pylist() == plain.samples(columns).to_pylist()


def test_without_a_checker_not_a_byte_and_not_a_version_is_another(
    plain: Dataset, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """The pipeline that has no checker has the same weights otherwise, and the same fingerprint."""
    other = make(tmp_path / "data", tiny_pipeline, safety_check=False)
    assert other.spec.fingerprint == plain.spec.fingerprint
    cards = ("README.md", "ppod.json", "croissant.json")  # they name the model's folder
    shards = [{k: v for k, v in visible(one.root).items() if k not in cards} for one in (plain, other)]
    assert shards[0] == shards[1]
    assert plain.samples().schema.names == SAMPLES.names
    assert plain.manifest["version"] == 1 and "safety_checker" not in plain.manifest["spec"]
    assert overview(plain)["num_flagged"] is None and "flagged" not in card_text(plain)


def test_a_checked_data_set_says_so_in_its_version_and_its_fingerprint(
    checked: Dataset, plain: Dataset
) -> None:
    assert checked.manifest["version"] == checked.manifest["spec"]["version"] == 3
    assert checked.spec.safety_checker and checked.spec.fingerprint != plain.spec.fingerprint
    assert checked.samples().schema.names == CHECKED_SAMPLES.names
    assert read_manifest(checked.root)[0] == checked.spec
    assert verify(checked.root, read_data=1).findings == []


def test_the_option_is_frozen_in_a_data_set(checked: Dataset, pipeline: Path) -> None:
    with pytest.raises(SpecMismatchError, match="a safety checker ran in the data set, none in the options"):
        make(checked.root, pipeline, safety_check=False)


def test_the_library_refuses_a_model_that_was_loaded_without_the_spec_s_checker(
    checked: Dataset, pipeline: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="was not loaded with"):
        generate(tmp_path / "data", checked.spec, load_model(str(pipeline)), shards=[0])
    model = load_model(str(pipeline), safety_check=True)
    spec = dataclasses.replace(checked.spec, safety_checker=None)
    generate(tmp_path / "plain", spec, model, shards=[0])
    assert Dataset.open(tmp_path / "plain").samples().schema.names == SAMPLES.names


def test_a_pipeline_without_a_checker_is_refused_in_one_line(tiny_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no safety checker: leave out --safety-check"):
        load_model(str(tiny_pipeline), safety_check=True)
    result = call(gen_app, tmp_path / "data", "--prompt", "a cat", "--safety-check")
    assert result.code == 2 and result.one_error() == "scenes has no safety checker: leave out --safety-check"
    assert not (tmp_path / "data").exists()


def test_the_commands_note_count_and_tell(pipeline: Path, tmp_path: Path, checked: Dataset) -> None:
    root, count = tmp_path / "data", sum(flags(checked))
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    prompts = ("--prompt", "a cat", "--prompt", "a dog")
    done = call(gen_app, root, *prompts, *options, "--model", pipeline, "--safety-check")
    assert done.code == 0, done.stderr
    assert flags(Dataset.open(root)) == flags(checked)
    assert visible(root) == visible(checked.root)
    said = call(data_app, "info", root)
    assert f"flagged        {count} images by the model's safety checker" in said.stdout
    assert json.loads(call(data_app, "info", root, "--json").stdout)["num_flagged"] == count


def test_the_card_croissant_and_export_carry_it(checked: Dataset, tmp_path: Path) -> None:
    assert f"safety checker flagged {sum(flags(checked))} of 16 images" in card_text(checked)
    fields = json.loads(croissant_text(checked))["recordSet"][0]["field"]
    assert [one["dataType"] for one in fields if one["@id"] == "samples/flagged"] == ["sc:Boolean"]
    export(checked, tmp_path / "images")
    lines = [json.loads(line) for line in (tmp_path / "images" / "metadata.jsonl").read_text().splitlines()]
    assert [line["flagged"] for line in lines] == flags(checked)


def test_the_page_tells_which_images_to_blur(checked: Dataset, plain: Dataset, tmp_path: Path) -> None:
    for dataset in (checked, plain):
        write_viewer(dataset, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        marked = page.count('"flagged":true') + page.count('"flagged": true')
        assert marked == (sum(flags(checked)) if dataset is checked else 0)
        assert ("they are blurred until you click them" in page) == (dataset is checked)


def test_a_purge_keeps_the_verdicts_of_the_others(pipeline: Path, tmp_path: Path, checked: Dataset) -> None:
    dataset = make(tmp_path / "data", pipeline, safety_check=True)
    gone = dataset.spec.sample_id(dataset.spec.prompt_ids[0], 0)
    exclude(dataset.root, dataset.spec, [gone], [], "asked for")
    purge(Dataset.open(dataset.root))
    assert flags(Dataset.open(dataset.root)) == flags(checked)[1:]
    assert verify(dataset.root, read_data=1).findings == []


def test_a_missing_verdict_or_column_is_found(pipeline: Path, tmp_path: Path) -> None:
    dataset = make(tmp_path / "data", pipeline, safety_check=True)
    part = dataset.root / "samples" / "000000.parquet"
    table = read_table(part, CHECKED_SAMPLES)
    rows = table.to_pylist()
    rows[0]["flagged"] = None
    write_table(part, type(table).from_pylist(rows, schema=table.schema))
    assert "flagged is null" in verify(dataset.root).of("damaged")[0].problem
    write_table(part, table.drop_columns(["flagged"]))
    with pytest.raises(DamagedError, match="the column 'flagged' is missing"):
        dataset.samples()


def test_people_are_not_asked_about_flagged_images(checked: Dataset) -> None:
    table = checked.samples(["sample_id", "flagged"])
    flagged = {
        name for name, flag in zip(*(table[c].to_pylist() for c in table.column_names), strict=True) if flag
    }
    asked = {name for one in read_questions(checked, size=2, count=99, seed=0) for name in one.ids}
    assert flagged and asked == set(table["sample_id"].to_pylist()) - flagged
