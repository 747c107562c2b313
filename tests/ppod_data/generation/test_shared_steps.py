"""Steps before the noise, computed once a prompt: the same bytes in every batch, shard and process."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.condition import Condition
from ppod_data.diffusion.models.model import DiffusionModel, load_model
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.cost import plan_generation
from ppod_data.generation.generate import generate
from ppod_data.generation.sampling import build_policy, sample_batch
from ppod_data.generation.shared_steps import SharedLatents, num_denoising_steps
from ppod_data.integrity.replay import replay
from tests.support.pipelines import save_tiny_pipeline

PROMPTS = ["a cat", "two dogs", "a red fox"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    return load_model(str(save_tiny_pipeline(tmp_path_factory.mktemp("models") / "sd")))


def a_spec(model: DiffusionModel, **options: Any) -> GenerationSpec:
    chosen = {"num_images_per_prompt": 4, "num_inference_steps": 5, "batch_size": 3, "images_per_shard": 6}
    window = {"initial_noise": "per-prompt", "noisy_steps": "2:4", "guidance_scale": 3.0}
    return build_spec(model, PROMPTS, **chosen | window | options)


def latents_of(dataset: Dataset) -> torch.Tensor:
    ids = dataset.samples(["sample_id"])["sample_id"].to_pylist()
    return torch.stack([dataset.trajectory(sample_id).latents for sample_id in ids])


def counted(model: DiffusionModel, calls: list[int]) -> DiffusionModel:
    """The model, with the rows of each network call noted in `calls`."""

    def predict(network: Any, latents: torch.Tensor, timesteps: torch.Tensor, c: Condition) -> torch.Tensor:
        calls.append(len(latents))
        return model.family.predict(network, latents, timesteps, c)

    return replace(model, family=replace(model.family, predict=predict))


def test_the_images_of_a_prompt_are_equal_to_the_bit_until_the_noise(
    model: DiffusionModel, tmp_path: Path
) -> None:
    """Batches of three cut the four images of a prompt, and shards of six its second prompt."""
    spec = a_spec(model)
    generate(tmp_path, spec, model, shards=range(spec.num_shards))
    dataset = Dataset.open(tmp_path)
    chains = latents_of(dataset).unflatten(0, (3, 4))
    assert torch.equal(chains[:, :, :3], chains[:, :1, :3].expand(-1, 4, -1, -1, -1, -1))
    assert all(not torch.equal(chains[p, 0, 3], chains[p, 1, 3]) for p in range(3))
    assert not torch.equal(chains[0, 0, 0], chains[1, 0, 0])
    replayed = replay(dataset, model, num_trajectories=12)
    assert (replayed.steps, replayed.share_exact) == ((2, 3), 1.0)


def test_every_split_of_the_work_gives_the_same_bytes(model: DiffusionModel, tmp_path: Path) -> None:
    spec = a_spec(model)
    for name, parts in (("one", [range(2)]), ("two", [[1], [0]])):
        for shards in parts:
            generate(tmp_path / name, spec, model, shards=shards)
    for pattern in ("samples/*", "trajectories/*"):
        one, two = (sorted((tmp_path / name).glob(pattern)) for name in ("one", "two"))
        assert [path.name for path in one] == [path.name for path in two]
        assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_another_batch_size_changes_no_bit_of_the_shared_steps(model: DiffusionModel) -> None:
    """The prompt is alone in their batch, whatever the batch of its images."""
    chains = []
    for batch_size in (1, 4):
        spec = a_spec(model, batch_size=batch_size)
        policy = build_policy(spec, model)
        chains.append(sample_batch(spec, policy, range(batch_size), record=True).latents[:3, 0])
    assert torch.equal(*chains)


def test_they_are_computed_once_a_prompt_and_counted_so(model: DiffusionModel, tmp_path: Path) -> None:
    calls: list[int] = []
    spec = a_spec(model, images_per_shard=12)
    generate(tmp_path, spec, counted(model, calls), shards=[0])
    halves = 2
    assert sum(calls) == halves * num_denoising_steps(spec) == halves * (3 * 2 + 12 * 3)
    assert plan_generation(model, spec).network_calls == sum(calls)
    assert num_denoising_steps(a_spec(model, initial_noise="per-image")) == 12 * 5
    assert num_denoising_steps(a_spec(model, noisy_steps="0:4")) == 12 * 5


def test_without_records_the_images_are_the_same(model: DiffusionModel) -> None:
    spec = a_spec(model)
    policy = build_policy(spec, model)
    kept = SharedLatents()
    for indices in (range(3), range(3, 6)):
        whole = sample_batch(spec, policy, indices, record=True)
        images = sample_batch(spec, policy, indices, record=False, kept=kept)
        assert torch.equal(whole.latents[-1:], images.latents)
