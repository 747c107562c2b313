"""Prompts are embedded when they are sampled: work and memory go with the shards that are made."""

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ppod_data.diffusion.condition import condition_bytes
from ppod_data.diffusion.models.model import DiffusionModel, embed_prompts, load_model
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.cost import plan_generation
from ppod_data.generation.generate import generate
from tests.support.pipelines import save_tiny_flux_pipeline, save_tiny_pipeline, save_tiny_xl_pipeline


def counting(model: DiffusionModel) -> tuple[DiffusionModel, list[str]]:
    """The model, and the prompts that it has embedded, in order."""
    embedded: list[str] = []

    def embed(pipeline: Any, prompt: str) -> Any:
        embedded.append(prompt)
        return model.family.embed(pipeline, prompt)

    return replace(model, family=replace(model.family, embed=embed)), embedded


def test_a_shard_embeds_its_own_prompts_once(tmp_path: Path, tiny_model: DiffusionModel) -> None:
    model, embedded = counting(tiny_model)
    options: dict[str, Any] = {"num_images_per_prompt": 3, "num_inference_steps": 2, "batch_size": 2}
    spec = build_spec(model, prompts=[f"cat {i}" for i in range(1000)], images_per_shard=6, **options)
    generate(tmp_path / "data", spec, model, shards=[10, 11])
    assert embedded == ["cat 20", "cat 21", "cat 22", "cat 23"]


def test_forgotten_embeddings_change_no_byte(tmp_path: Path, tiny_model: DiffusionModel) -> None:
    """A batch that goes over prompts embeds each of them, whatever was kept."""
    options: dict[str, Any] = {"num_images_per_prompt": 2, "num_inference_steps": 2, "batch_size": 4}
    spec = build_spec(tiny_model, prompts=["a", "b", "c"], **options)
    conditioning = embed_prompts(tiny_model, spec.prompts, "", spec.guidance_scale)
    forgetful = replace(conditioning, max_bytes=1, _kept=OrderedDict())
    for _ in range(2):
        whole, again = conditioning.of([0, 0, 1, 2]), forgetful.of([0, 0, 1, 2])
        assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert len(forgetful._kept) == 1


@pytest.mark.parametrize("save", [save_tiny_pipeline, save_tiny_xl_pipeline, save_tiny_flux_pipeline])
def test_rows_are_those_of_prompts_embedded_alone(tmp_path: Path, save: Any) -> None:
    model = load_model(str(save(tmp_path / "model")))
    prompts = ["a cat", "two dogs", "a red fox"]
    rows = embed_prompts(model, prompts, "", 1.0).of(torch.tensor([2, 0, 2]))
    for row, prompt in enumerate(["a red fox", "a cat", "a red fox"]):
        alone = embed_prompts(model, [prompt], "", 1.0).of([0])
        for name, value in alone.items():
            assert torch.equal(rows[name][row : row + 1], value)


def test_embeddings_stay_within_their_bound(tiny_model: DiffusionModel) -> None:
    model, embedded = counting(tiny_model)
    conditioning = embed_prompts(model, [f"cat {i}" for i in range(10)], "", 1.0)
    size = condition_bytes(conditioning.of([0]))
    bounded = replace(conditioning, max_bytes=3 * size, _kept=OrderedDict())
    embedded.clear()
    bounded.of([0, 1, 2, 1])
    bounded.of([0, 3])  # 1 is the longest unused
    bounded.of([0, 2, 3])
    assert embedded == ["cat 0", "cat 1", "cat 2", "cat 3"]
    bounded.of([1])
    assert embedded[-1] == "cat 1" and len(bounded._kept) == 3


def test_a_dry_run_counts_text_embeddings(tiny_pipeline: Path, tiny_model: DiffusionModel) -> None:
    spec = build_spec(tiny_model, prompts=[f"cat {i}" for i in range(25_000)], num_images_per_prompt=1)
    plan = plan_generation(load_skeleton(str(tiny_pipeline)), spec)
    one = condition_bytes(embed_prompts(tiny_model, ["cat 0"], "", 1.0).of([0]))
    assert plan.embedding_bytes == min(25_000 * one, 1 << 30)
    few = plan_generation(load_skeleton(str(tiny_pipeline)), replace(spec, prompts=("a cat",)))
    assert few.embedding_bytes == one
    assert plan.peak_bytes == pytest.approx(few.peak_bytes, rel=0.5)
