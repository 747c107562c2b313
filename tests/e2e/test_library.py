"""The pipeline in Python: plain paths, one model that stays as it was loaded, and the bytes of the commands."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from ppod_cli import gen, pair
from ppod_cli import score as score_command

from ppod_data import Dataset, build_spec, generate, load_model, rank_pairs, score, verify

PROMPTS = ["a cat and a dog", "a dog on the moon"]
SHAPE = {"num_images_per_prompt": 4, "num_inference_steps": 4, "images_per_shard": 4, "batch_size": 4}


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file but those of the environment, which name this process's settings."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.parent.name != "environment" and not path.name.startswith(".")
    }


def run(command: Callable[[list[str]], object], *arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        command([str(argument) for argument in arguments])
    assert not ended.value.code


def test_the_pipeline_makes_the_bytes_of_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("library", "commands"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "library")
    model = load_model("scenes")
    spec = build_spec(model, PROMPTS, **SHAPE)
    dataset = generate("data", spec, model)
    assert isinstance(dataset, Dataset)
    assert score("data", "scenes").num_scores == 8
    assert rank_pairs("data", "scenes").num_pairs > 0
    assert verify("data").findings == []
    again = generate("again", spec, model)
    for number in range(spec.num_shards):
        assert again.sample_part(number) == dataset.sample_part(number), "the model is not as it was loaded"

    monkeypatch.chdir(tmp_path / "commands")
    options = [word for key, value in SHAPE.items() for word in (f"--{key.replace('_', '-')}", value)]
    run(gen.app, "data", *(word for prompt in PROMPTS for word in ("--prompt", prompt)), *options)
    run(score_command.app, "data", "--reward", "scenes")
    run(pair.app, "rank", "data", "--reward", "scenes")
    assert hashes(tmp_path / "library" / "data") == hashes(tmp_path / "commands" / "data")


def test_a_second_call_makes_nothing_anew(tmp_path: Path) -> None:
    model = load_model("scenes")
    spec = build_spec(model, PROMPTS[:1], **SHAPE)
    generate(tmp_path / "data", spec, model, shards=[0])
    first = hashes(tmp_path)
    assert generate(tmp_path / "data", spec, model).missing_shards() == []
    assert hashes(tmp_path) == first
