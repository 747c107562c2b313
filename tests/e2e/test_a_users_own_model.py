"""A user's own model, adapter, reward, prompts and labels, from the first command to a policy by the `next:` lines.

The test types two commands: the first one, and the export at the end. In between it runs what each command prints,
replaces only the placeholders in it, and shortens the training.
"""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from ppod_data.dataset.dataset import Dataset
from tests.support.command import following, ran
from tests.support.loras import RANK, peft_folder
from tests.support.pipelines import save_tiny_pipeline

pytestmark = pytest.mark.long

FIRST = """ppod-gen data --prompts prompts.jsonl --num-images-per-prompt 4 --num-inference-steps 2 \
    --model 'my model' --adapter 'my adapter'"""
REWARD = """def redness(prompts, images):
    return [image.convert("RGB").resize((1, 1)).getpixel((0, 0))[0] / 255 for image in images]
"""


def make_own_files() -> None:
    """Write a model, an adapter of scale 2, the same adapter merged or at scale 1, a reward and prompts."""
    save_tiny_pipeline(Path("my model"))
    unet = StableDiffusionPipeline.from_pretrained("my model").unet
    merged = peft_folder(Path("my adapter"), unet, alpha=2 * RANK).merge_and_unload()
    StableDiffusionPipeline.from_pretrained("my model", unet=merged).save_pretrained("merged")
    shutil.copytree("my adapter", "scale 1")
    config = json.loads(Path("scale 1/adapter_config.json").read_text())
    Path("scale 1/adapter_config.json").write_text(json.dumps({**config, "lora_alpha": RANK}))
    Path("reds.py").write_text(REWARD)
    rows = [{"prompt": "a red car", "id": 1}, {"prompt": "a blue bus", "id": 2}]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_labels() -> list[tuple[str, str]]:
    """Write votes.csv on the images of the data set. Return the chosen and the rejected sample of each row."""
    ids = Dataset.open("data").samples(["sample_id"])["sample_id"].to_pylist()
    rows = [(ids[0], ids[1], "a"), (ids[2], ids[3], "b"), (ids[4], ids[5], "a"), (ids[6], ids[7], "b")]
    with Path("votes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "label"), *rows])
    return [(a, b) if label == "a" else (b, a) for a, b, label in rows]


def log_probs(adapter: str, name: str) -> dict[str, float]:
    """Return the log-probability of each trajectory of the data set under an adapter."""
    ran(f"ppod-data log-probs data --name {name} --model 'my model' --adapter '{adapter}'")
    rows = Dataset.open("data").log_probs(name).to_pylist()
    return {row["sample_id"]: sum(row["log_probs"]) for row in rows}


def difference(*policy: str) -> float:
    """Return how far the log-probabilities in the samples are from those under a policy, at most."""
    name = f"by-{policy[-1].replace(' ', '-')}"
    done = ran("ppod-data log-probs data --json", "--name", name, *policy)
    return float(json.loads(done.stdout)["max_difference"])


def assert_scale_2_made_the_images() -> None:
    """The samples are those of the weights that peft merges at alpha = 2r, and not those of alpha = r."""
    assert difference("--model", "merged") < 1e-3
    assert difference("--model", "my model", "--adapter", "scale 1") > 1


def assert_the_users_reward_judged() -> None:
    run = json.loads(Path("run/run.json").read_text())
    assert [part["reward"] for part in run["judge"]["parts"]] == ["reds.py:redness"]
    for side, adapter in (("before", "my adapter"), ("after", "run/policy")):
        result = json.loads(Path(f"run-eval/{side}/eval.json").read_text())
        assert (result["model"], result["adapter"]) == ("my model", adapter)
        assert result["scorer"] == {"name": "redness", "revision": run["judge"]["parts"][0]["revision"]}
        assert list(result["prompts"]) == ["a red car", "a blue bus"]
    assert result["overall"]["win_rate"] is not None


def assert_the_labels_were_learned(labels: list[tuple[str, str]]) -> None:
    """Training moved the policy, from the adapter, towards the images that people chose."""
    run = json.loads(Path("run/run.json").read_text())
    assert (run["targets"], run["num_pairs"]) == ("pairs/people", len(labels))
    assert run["identity"]["start_fingerprint"] == Dataset.open("data").spec.policy_fingerprint
    pairs = Dataset.open("data").pairs("people").to_pylist()
    assert {(pair["chosen_id"], pair["rejected_id"]) for pair in pairs} == set(labels)
    before, after = log_probs("my adapter", "before"), log_probs("run/policy", "after")
    assert sum(after[a] - before[a] - (after[b] - before[b]) for a, b in labels) > 0


def assert_diffusers_loads(policy: str) -> None:
    """Diffusers makes another image with the policy than with the model alone."""

    def latents(adapter: str | None) -> torch.Tensor:
        pipeline = StableDiffusionPipeline.from_pretrained("my model")
        pipeline.set_progress_bar_config(disable=True)
        if adapter is not None:
            pipeline.load_lora_weights(adapter)
        draw = torch.Generator().manual_seed(0)
        made = pipeline(
            "a red car", num_inference_steps=2, generator=draw, output_type="latent", height=16, width=16
        )
        return made.images

    own = latents(policy)
    assert own.isfinite().all()
    assert not torch.allclose(own, latents(None))


def test_the_next_lines_lead_to_a_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my wörk").mkdir()
    monkeypatch.chdir(tmp_path / "my wörk")
    make_own_files()

    made = ran(FIRST)
    scored = ran(following(made, "with your own reward", **{"FILE.py:FUNCTION": "reds.py:redness"}))
    labels = write_labels()
    imported = ran(following(scored, "with people's labels", FILE="votes.csv"))
    referred = ran(following(imported))
    trained = ran(following(referred), "--num-train-steps", 20)
    evaluated = ran(following(trained))
    reported = ran(following(evaluated))
    assert "next" not in reported.stdout
    ran("ppod-train export run --out exported")

    assert_scale_2_made_the_images()
    assert_the_users_reward_judged()
    assert_the_labels_were_learned(labels)
    assert Path("run-eval-and-run.html").is_file()
    for policy in ("run/policy", "exported"):
        assert_diffusers_loads(policy)
