"""The public names of the trainer: locked, documented, and runnable as their examples say."""

import doctest
import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import ppod_train
from ppod_data.diffusion.models.model import DiffusionModel, load_model
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate
from ppod_data.generation.sampling import sample_images
from ppod_data.pairs.rank import rank
from ppod_data.rewards import load_reward
from ppod_data.scoring.score import score
from tests.support.progress import Counts

PROMPTS = ("a cat and a dog",)
SETTINGS = ppod_train.TrainSettings(num_train_steps=1, pairs_per_step=2, lora_rank=2, eval_every=0)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set of four images, scored and paired."""
    from ppod_data.dataset.dataset import Dataset

    folder = tmp_path_factory.mktemp("library")
    model = load_model("scenes")
    spec = build_spec(model, prompts=PROMPTS, num_images_per_prompt=4, num_inference_steps=4, batch_size=4)
    generate(folder / "data", spec, model, shards=range(spec.num_shards))
    dataset = Dataset.open(folder / "data")
    score(dataset, load_reward("scenes"), name="scenes")
    rank(dataset, reward="scenes", name="scenes")
    return folder


def images(model: DiffusionModel) -> list[bytes]:
    spec = build_spec(model, prompts=PROMPTS, num_images_per_prompt=2, num_inference_steps=4, batch_size=2)
    return [image.tobytes() for batch in sample_images(spec, model, range(1)) for _, _, image in batch]


def test_the_public_names_are_these() -> None:
    assert ppod_train.__all__ == [
        "OBJECTIVES",
        "DataSource",
        "EvalSettings",
        "ModelSource",
        "OnlineSettings",
        "TrainSettings",
        "compare",
        "evaluate",
        "load_policy",
        "train",
        "train_online",
        "write_report",
    ]
    for name in ppod_train.__all__:
        assert getattr(ppod_train, name) is not None
    misspelt = "trian"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        getattr(ppod_train, misspelt)


@pytest.mark.parametrize("name", [name for name in ppod_train.__all__ if name != "OBJECTIVES"])
def test_a_public_name_has_a_docstring_and_few_parameters(name: str) -> None:
    value: Any = getattr(ppod_train, name)
    assert inspect.getdoc(value)
    if is_dataclass(value):
        assert all(field.kw_only for field in fields(value))
    else:
        assert len(inspect.signature(value).parameters) <= 8


def test_the_examples_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    first = ["train", *(name for name in ppod_train.__all__ if name not in ("OBJECTIVES", "train"))]
    for name in first:  # the others read the run
        value = getattr(ppod_train, name)
        check(value, vars(inspect.getmodule(value)))


def check(value: Any, names: dict[str, Any]) -> None:
    tests = [
        test for test in doctest.DocTestFinder(recurse=False).find(value, globs=dict(names)) if test.examples
    ]
    assert tests, value
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0


def test_training_leaves_the_callers_model_as_it_is(here: Path, tmp_path: Path) -> None:
    model = load_model("scenes")
    before = images(model)
    weights = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    counts = Counts()
    run = ppod_train.train([here / "data"], str(tmp_path / "run"), SETTINGS, model=model, progress=counts)
    assert (counts.total, counts.done, run.summary.steps) == (1, 1, 1)
    assert run.report.is_file()
    after = model.denoiser.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert images(model) == before
    policy = ppod_train.load_policy(run.policy)
    assert images(policy) != before


def test_a_folder_that_is_no_run_holds_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no policy of a run"):
        ppod_train.load_policy(tmp_path)
