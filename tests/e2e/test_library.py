"""The pipeline in Python: plain paths, one model that stays as it was loaded, and the bytes of the commands."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from ppod_cli import gen, pair
from ppod_cli import score as score_command
from ppod_cli import train as train_command

from ppod_data import Dataset, build_spec, generate, load_model, rank_pairs, score, verify
from ppod_train import TrainSettings, compare, train, write_report

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
    score("data", "scenes")
    rank_pairs("data", "scenes")
    settings = TrainSettings(num_train_steps=2, pairs_per_step=2, lora_rank=2, eval_every=0)
    policy = train("data", "run", settings, model=model).policy
    comparison = compare(policy, "result", baseline=model, num_images_per_prompt=2)
    write_report(["run", "result"], "report.html")

    assert isinstance(dataset, Dataset)
    assert verify("data").findings == []
    assert comparison.before is not None and comparison.before.adapter is None
    again = generate("again", spec, model)
    for number in range(spec.num_shards):
        assert again.sample_part(number) == dataset.sample_part(number), "the model is not as it was loaded"

    monkeypatch.chdir(tmp_path / "commands")
    options = [word for key, value in SHAPE.items() for word in (f"--{key.replace('_', '-')}", value)]
    run(gen.app, "data", *(word for prompt in PROMPTS for word in ("--prompt", prompt)), *options)
    run(score_command.app, "data", "--reward", "scenes")
    run(pair.app, "rank", "data", "--reward", "scenes")
    options = ["--num-train-steps", 2, "--pairs-per-step", 2, "--lora-rank", 2, "--eval-every", 0]
    run(train_command.app, "offline", "data", "--out", "run", *options)
    run(
        train_command.app,
        *("eval", "--adapter", "run/policy", "--out", "result", "--num-images-per-prompt", 2),
    )
    for folder in ("data", "run/policy", "result/before", "result/after"):
        assert hashes(tmp_path / "library" / folder) == hashes(tmp_path / "commands" / folder), folder
    assert (tmp_path / "library" / "report.html").is_file()


def test_a_second_call_makes_nothing_anew(tmp_path: Path) -> None:
    model = load_model("scenes")
    spec = build_spec(model, PROMPTS[:1], **SHAPE)
    generate(tmp_path / "data", spec, model, shards=[0])
    first = hashes(tmp_path)
    assert generate(tmp_path / "data", spec, model).missing_shards() == []
    assert hashes(tmp_path) == first
