"""The public names of the packages, and the example of each."""

import csv
import doctest
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PUBLIC = {
    "ppod_data": [
        "Dataset",
        "GenerationSpec",
        "ImportOptions",
        "PpodError",
        "SamplingSettings",
        "Trajectory",
        "agreement",
        "build_spec",
        "generate",
        "import_labels",
        "load_model",
        "load_reward",
        "pull",
        "push",
        "rank_pairs",
        "score",
        "verify",
    ],
}
NAMES = [(package, name) for package, names in PUBLIC.items() for name in names]
FUNCTIONS = [pair for pair in NAMES if pair[1][0].islower()]
MOST_PARAMETERS = 8
README = Path(__file__).parents[2] / "README.md"
HEAVY = {"torch", "numpy", "pyarrow", "diffusers", "transformers", "datasets", "PIL"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what the examples read: a scored data set `data`, and labels of its images `answers.csv`."""
    from ppod_data import build_spec, generate, load_model, score

    folder = tmp_path_factory.mktemp("examples")
    model = load_model("scenes")
    spec = build_spec(model, ["a dog on the moon"], num_images_per_prompt=4, num_inference_steps=4)
    dataset = generate(folder / "data", spec, model)
    score(dataset, "scenes")
    ids = dataset.samples(["sample_id"])["sample_id"].to_pylist()
    with (folder / "answers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "a", "b", "label", "annotator"])
        writer.writerow([spec.prompts[0], ids[0], ids[1], "a", "anna"])
        writer.writerow([spec.prompts[0], ids[2], ids[3], "b", "anna"])
    return folder


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_names_are_these(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package])
    assert all(hasattr(module, name) for name in module.__all__)
    assert not hasattr(module, "no_such_name")


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_the_example_runs(
    package: str, name: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documented = getattr(importlib.import_module(package), name)
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(documented) or "", {}, name, None, None)
    assert test.examples, f"{package}.{name} has no example"
    shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    report: list[str] = []
    assert doctest.DocTestRunner().run(test, out=report.append).failed == 0, "".join(report)


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(README), "exec"), {})
    assert (tmp_path / "data" / "pairs" / "scenes.parquet").exists()


@pytest.mark.parametrize(("package", "name"), FUNCTIONS)
def test_a_function_has_few_parameters(package: str, name: str) -> None:
    function = getattr(importlib.import_module(package), name)
    assert len(inspect.signature(function).parameters) <= MOST_PARAMETERS


@pytest.mark.parametrize("package", PUBLIC)
def test_importing_a_package_imports_nothing_heavy(package: str) -> None:
    """In a fresh process, since the tests themselves import torch."""
    program = (
        f"import json, sys, {package}; print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert HEAVY & set(json.loads(done.stdout)) == set()
