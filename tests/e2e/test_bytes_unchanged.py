"""Bytes of data sets, pair tables, label tables and policies, compared with a record.

The commands run in one process, on one thread and the CPU, in a folder of their own, on paths relative to that folder.
`bytes.json` holds three parts:

- `bytes`: the sha256 of every file of a data set, except its card and `environment/`, and of every policy.
- `contents`: the sha256 of the values that no floating-point computation enters.
- `environment`: the packages and the processor of the record.

Another processor or another version of a package changes the last bits of a computation. The test of `bytes` is then
skipped, and the test of `contents` still holds.

Rewrite the record only when bytes change on purpose, and say in CHANGELOG.md which bytes changed and why:

    PYTHONPATH=.:cli python -m tests.e2e.test_bytes_unchanged --record
"""

import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
RECORD = Path(__file__).with_name("bytes.json")
PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy", "pyarrow", "pillow", "safetensors")
PIPELINES = ("sd", "sdxl", "sd3", "flux")
WINDOWED = "sd3-window"
"""A data set of Stable Diffusion 3 with its default window of noisy steps; the others draw noise in every step."""
TRAINED = ("scenes", "sd", "flux")
PROMPTS = ("--prompt", "a cat and a dog", "--prompt", "a green colored rabbit")
STEPS = ("--num-train-steps", 3, "--pairs-per-step", 2, "--lora-rank", 2)
FIXED_REWARD = """def fixed(prompts, images):
    return [float(2 * index % 3) for index in range(len(images))]
"""
EXACT_SAMPLES = ("sample_id", "prompt_id", "prompt", "image_index", "seed", "timesteps", "stochastic")


def commands() -> Mapping[str, Callable[..., None]]:
    from ppod_cli import gen, pair, score, train

    return {"gen": gen.app, "pair": pair.app, "score": score.app, "train": train.app}


def run(name: str, *arguments: object) -> None:
    """Run a command in this process and in the current folder; end the process if the command fails."""
    try:
        commands()[name]([str(argument) for argument in arguments])
    except SystemExit as ended:
        if ended.code:
            raise


def make() -> None:
    """Make everything that the record covers, in the current folder."""
    Path("fixed.py").write_text(FIXED_REWARD, encoding="utf-8")
    make_pipelines()
    shape = ("--num-images-per-prompt", 4, "--batch-size", 3, "--images-per-shard", 3)
    make_data("scenes", "scenes", *shape, "--num-inference-steps", 4, reward="scenes")
    for name in PIPELINES:
        shape = ("--num-images-per-prompt", 2, "--images-per-shard", 2, "--num-inference-steps", 3)
        make_data(name, f"{name}-model", *shape, "--noisy-steps", "0:3", reward="jpeg-compressibility")
    shape = ("--num-images-per-prompt", 2, "--num-inference-steps", 4)
    run("gen", WINDOWED, "--model", "sd3-model", *PROMPTS[:2], *shape)
    for name in TRAINED:
        reward = "scenes" if name == "scenes" else "jpeg-compressibility"
        chosen = ("--pairs", reward, "--reward", reward, "--eval-every", 0)
        run("train", "offline", name, *chosen, *STEPS, "--out", f"{name}-run")
    sampling = ("--num-images-per-prompt", 4, "--num-inference-steps", 4, "--eval-images-per-prompt", 2)
    run("train", "online", *PROMPTS[:2], *sampling, *STEPS, "--stages", 2, "--lr-scheduler", "constant",
        "--out", "online-run")  # fmt: skip
    make_labels("scenes")
    make_given("given", "scenes")


def make_pipelines() -> None:
    from tests.support import pipelines

    pipelines.save_tiny_pipeline(Path("sd-model"))
    pipelines.save_tiny_xl_pipeline(Path("sdxl-model"))
    pipelines.save_tiny_sd3_pipeline(Path("sd3-model"))
    pipelines.save_tiny_flux_pipeline(Path("flux-model"))


def make_data(folder: str, model: str, *shape: object, reward: str) -> None:
    """Make a data set with two tables of scores and two tables of pairs: by `reward`, and by fixed scores."""
    run("gen", folder, "--model", model, *PROMPTS, *shape)
    for name in (reward, "fixed.py:fixed"):
        run("score", folder, "--reward", name)
        run("pair", "rank", folder, "--reward", name.split(":")[-1])


def make_labels(folder: str) -> None:
    """Import labels of two annotators, and combine their pairs with those of the fixed scores.

    The names of annotators are hashed with two random secrets. Both are given a fixed value here.
    """
    secrets = (Path(os.environ["XDG_DATA_HOME"]) / "ppod/annotators/own.key", Path(folder, "labels/.salt"))
    for path, letter in zip(secrets, "ab", strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(64 * letter, encoding="ascii")
    samples = rows(Path(folder, "samples"), ("sample_id", "prompt"))
    with Path("answers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "a", "b", "label", "annotator"])
        for index, (a, b) in enumerate(pairwise(samples)):
            if a["prompt"] == b["prompt"]:
                for who, labels in (("anna", ("a", "b", "tie")), ("bert", ("a", "a", "b"))):
                    writer.writerow([a["prompt"], a["sample_id"], b["sample_id"], labels[index % 3], who])
    imported = ("--format", "table", "--name", "people", "--license", "CC0-1.0", "--keep-ties")
    run("pair", "import", folder, "answers.csv", *imported)
    combined = ("--pairs", "people=2", "--pairs", "fixed")
    run("pair", "combine", folder, *combined, "--name", "both")
    run("pair", "combine", folder, *combined, "--name", "split", "--validation-share", 0.5)


def make_given(folder: str, images_of: str) -> None:
    """Make a data set of given images: a comparison in Pick-a-Pic's form, with a chain drawn onto each image."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    samples = rows(Path(images_of, "samples"), ("prompt", "image"))
    first, second = samples[:2]
    comparison = {
        **{"caption": first["prompt"], "ranking_id": 1, "has_label": True, "label_0": 1.0, "label_1": 0.0},
        **{"jpg_0": first["image"]["bytes"], "jpg_1": second["image"]["bytes"]},
        **{"image_0_uid": "0", "image_1_uid": "1", "image_0_url": "", "image_1_url": ""},
        **{"model_0": "m", "model_1": "n"},
    }
    pq.write_table(pa.Table.from_pylist([comparison]), "given.parquet")
    chain = ("--model", "scenes", "--num-inference-steps", 4)
    run("pair", "import", folder, "given.parquet", "--format", "pickapic", *chain)


def rows(folder: Path, columns: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    """Return the rows of all Parquet files of a folder, in the order of their names."""
    import pyarrow.parquet as pq

    names = None if columns is None else list(columns)
    tables = [pq.read_table(path, columns=names) for path in sorted(folder.glob("*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def file_digests(root: Path) -> dict[str, str]:
    """Return the sha256 of every file whose bytes are compared, by its path below `root`.

    The labels of `given` are left out: their secret is random.
    """
    data = [root / name for name in ("scenes", *PIPELINES, WINDOWED, "given")]
    data += sorted(root.glob("online-run/stage-*/data"))
    parts = ("ppod.json", "samples/*", "trajectories/*", "scores/*/*", "pairs/*")
    paths = [path for folder in data for part in parts for path in folder.glob(part)]
    paths += (root / "scenes/labels").glob("*.parquet")
    paths += [
        *root.glob("*-run/policy/*.safetensors"),
        *root.glob("online-run/stage-*/run/policy/*.safetensors"),
    ]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
    }


def content_digests(root: Path) -> dict[str, str]:
    """Return digests of values that are the same on every machine.

    The policy fingerprint of a pipeline with random weights, and so every id in its data set, depends on the machine;
    that of `scenes`, whose weights are files, does not.
    """
    contents: dict[str, object] = {"scenes/spec": spec(root / "scenes")}
    contents["scenes/samples"] = rows(root / "scenes/samples", EXACT_SAMPLES)
    for name in ("fixed", "people", "both", "split-train", "split-validation"):
        contents[f"scenes/pairs/{name}"] = table(root / f"scenes/pairs/{name}.parquet")
    contents["scenes/labels/people"] = table(root / "scenes/labels/people.parquet")
    for name in (*PIPELINES, WINDOWED):
        contents[f"{name}/spec"] = {
            key: value
            for key, value in spec(root / name).items()
            if key not in ("policy_fingerprint", "scheduler")
        }
        contents[f"{name}/samples"] = rows(root / f"{name}/samples", EXACT_SAMPLES[1:])
    for part in ("scenes", *PIPELINES, WINDOWED, "given"):
        for path in sorted((root / part).glob("*/**/*.parquet")):
            if path.stem.isdecimal() and int(path.stem) > 0:
                continue  # the shards of a table have the same columns
            contents[f"{path.relative_to(root).as_posix()} columns"] = columns(path)
    return {name: digest(content) for name, content in contents.items()}


def spec(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "ppod.json").read_text(encoding="utf-8"))["spec"]
    return values


def table(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    content: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return content


def columns(path: Path) -> list[list[str]]:
    import pyarrow.parquet as pq

    return [[field.name, str(field.type)] for field in pq.read_schema(path)]


def digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def environment() -> dict[str, str]:
    """Return the packages and the processor, on which the last bits of a computation depend."""
    import torch

    return {name: version(name) for name in PACKAGES} | {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def cpu() -> str:
    """Return the processor's family, model and name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    known = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    keys = ("vendor_id", "cpu family", "model", "model name")
    return " ".join(known.get(key, "").strip() for key in keys).strip() or platform.processor()


def made_in(folder: Path, threads: int = 1) -> dict[str, dict[str, str]]:
    """Run `make` in a process of its own in an empty folder, and return what a record holds."""
    settings = {
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'cli'}",
        "OMP_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "XDG_DATA_HOME": str(folder / "user"),
        "PPOD_CACHE": str(folder / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.test_bytes_unchanged", "--make"],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {"environment": environment(), "contents": content_digests(folder), "bytes": file_digests(folder)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return made_in(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, str]]:
    record: dict[str, dict[str, str]] = json.loads(RECORD.read_text(encoding="utf-8"))
    return record


def differences(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    return [name for name in sorted(now.keys() | then.keys()) if now.get(name) != then.get(name)]


def test_ids_columns_pairs_and_labels_are_as_recorded(made: Any, recorded: Any) -> None:
    assert differences(made["contents"], recorded["contents"]) == []


def test_bytes_are_as_recorded(made: Any, recorded: Any) -> None:
    if changed := differences(made["environment"], recorded["environment"]):
        pytest.skip(f"bytes recorded with another {', '.join(changed)}: the last bits of floats can differ")
    assert differences(made["bytes"], recorded["bytes"]) == []


def record() -> None:
    with tempfile.TemporaryDirectory() as folder:
        RECORD.write_text(json.dumps(made_in(Path(folder)), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    {"--make": make, "--record": record}[sys.argv[1]]()
