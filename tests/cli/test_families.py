"""Flow-matching models all the way by the real commands: gen, score, pair, train, eval; then plain diffusers."""

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from ppod_cli import data, gen, pair, score, train

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import load_model
from tests.support.command import call
from tests.support.pipelines import save_tiny_flux_pipeline, save_tiny_sd3_pipeline, save_tiny_sd35_pipeline
from tests.support.transformer_pipelines import (
    save_tiny_chroma_pipeline,
    save_tiny_flux_2_dev_pipeline,
    save_tiny_klein_pipeline,
    save_tiny_lumina_2_pipeline,
    save_tiny_pixart_pipeline,
    save_tiny_qwen_image_pipeline,
    save_tiny_sana_pipeline,
    save_tiny_z_image_pipeline,
)

SAVERS: Mapping[str, Callable[[Path], Path]] = {
    "sd-3": save_tiny_sd3_pipeline,
    "sd-3.5": save_tiny_sd35_pipeline,
    "flux-dev": save_tiny_flux_pipeline,
    "flux-schnell": partial(save_tiny_flux_pipeline, guidance_embeds=False),
    "flux2-klein-base": save_tiny_klein_pipeline,
    "flux2-dev": save_tiny_flux_2_dev_pipeline,
    "chroma": save_tiny_chroma_pipeline,
    "z-image": save_tiny_z_image_pipeline,
    "qwen-image": save_tiny_qwen_image_pipeline,
    "pixart-sigma": save_tiny_pixart_pipeline,
    "sana": save_tiny_sana_pipeline,
    "lumina-2": save_tiny_lumina_2_pipeline,
}
GUIDANCE = {
    "sd-3": 4.5,
    "sd-3.5": 4.5,
    "flux-dev": 3.5,
    "flux-schnell": 1.0,
    "flux2-klein-base": 4.0,
    "flux2-dev": 4.0,
    "chroma": 5.0,
    "z-image": 5.0,
    "qwen-image": 4.0,
    "pixart-sigma": 4.5,
    "sana": 4.5,
    "lumina-2": 4.0,
}
NOISE = {"pixart-sigma": 1.0}
"""The noise level of a DDIM model; 0.7 of others."""
PLAIN: Mapping[str, Mapping[str, Any]] = {
    "pixart-sigma": {"use_resolution_binning": False},
    "sana": {"use_resolution_binning": False, "height": 32, "width": 32},
}
"""Options of the pipeline's own call."""
QUIET = {"sd-3": [2, 3], "sd-3.5": [2, 3], "qwen-image": [1, 2, 3], "chroma": [2, 3]}
"""The steps without noise by default, of four; the last one of other families."""
SIZE = ("--height", 16, "--width", 16)
REWARD = "jpeg-compressibility"


def told(app: Callable[..., None], *words: object) -> dict[str, Any]:
    """What a command says for programs."""
    done = call(app, *words, "--json")
    assert done.code == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@pytest.mark.long
@pytest.mark.parametrize("name", SAVERS)
def test_all_the_way(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = SAVERS[name](tmp_path / "model")
    prompts = ("--prompt", "a cat", "--prompt", "two dogs")
    sampling = ("--model", model, "--num-inference-steps", 4, *SIZE)
    shape = ("--num-images-per-prompt", 4, "--images-per-shard", 4, "--batch-size", 4)
    made = told(gen.app, "data", *prompts, *sampling, *shape)
    assert made["num_made"] == 8 and made["deterministic_steps"] == QUIET.get(name, [3])
    spec = Dataset.open("data").spec
    assert (spec.ddim_eta, spec.guidance_scale) == (NOISE.get(name, 0.7), GUIDANCE[name])
    assert told(score.app, "data", "--reward", REWARD)["scores"][0]["num_scored"] == 8
    assert told(pair.app, "rank", "data", "--reward", REWARD)["num_pairs"] > 4

    replay = told(data.app, "verify", "data", "--model", model)["replay"]
    assert (replay["share_exact"], replay["largest"]) == (1.0, [0.0] * (4 - len(QUIET.get(name, [3]))))
    told(train.app, "offline", "data", "--pairs", REWARD, "--reward", REWARD, "--out", "run",
         "--num-train-steps", 3, "--pairs-per-step", 2, "--eval-every", 0)  # fmt: skip
    steps = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    steps = [row for row in steps if "log_ratio_max" in row]
    assert steps[0]["log_ratio_max"] == 0.0 and steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-12)
    assert steps[2]["log_ratio_max"] > 0.0

    judged = told(train.app, "eval", *prompts, *sampling, "--adapter", "run/policy", "--reward", REWARD,
                  "--num-images-per-prompt", 2, "--out", "result")  # fmt: skip
    assert judged["after"]["num_images"] == judged["before"]["num_images"] == 4
    assert judged["after"]["diversity"] != judged["before"]["diversity"]
    assert judged["after"]["gain"] is not None

    again = told(
        gen.app, "again", *prompts, *sampling, "--adapter", "run/policy", "--num-images-per-prompt", 1
    )
    assert again["num_made"] == 2
    assert Dataset.open("again").spec.policy_fingerprint != spec.policy_fingerprint
    ours = images_of_ours(name, model, "run/policy")
    np.testing.assert_allclose(images_of_plain_diffusers(name, model), ours, rtol=0, atol=1e-5)
    assert not np.array_equal(images_of_ours(name, model, None), ours)


def images_of_plain_diffusers(name: str, folder: Path) -> NDArray[np.float32]:
    """Its own pipeline class with the policy loaded, sampled by its own deterministic sampler."""
    import diffusers

    kind = getattr(diffusers, json.loads((folder / "model_index.json").read_text())["_class_name"])
    absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd-3" else {}
    pipeline = kind.from_pretrained(folder, **absent)
    load = Path("run/policy/README.md").read_text().split("pipe = DiffusionPipeline")[1].splitlines()[1]
    exec(load.replace("THIS_FOLDER", "run/policy"), {"pipe": pipeline, "PeftModel": PeftModel})
    return images(name, pipeline)


def images_of_ours(name: str, folder: Path, adapter: str | None) -> NDArray[np.float32]:
    return images(name, load_model(str(folder), adapter=adapter).pipeline)


def images(name: str, pipeline: Any) -> NDArray[np.float32]:
    pipeline.set_progress_bar_config(disable=True)
    options = {"height": 16, "width": 16, "output_type": "np"} | PLAIN.get(name, {})
    generator = torch.Generator().manual_seed(0)
    made = pipeline(prompt="a cat", num_inference_steps=3, generator=generator, **options).images
    array: NDArray[np.float32] = made
    return array
