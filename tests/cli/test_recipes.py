"""Every recipe is understood by its commands, on a small pipeline of its class; its figures are those of README.md."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ppod_cli import gen, train

from ppod_data.dataset.dataset import create
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.format.prompts import read_prompts
from ppod_data.generation.build_spec import build_spec
from tests.support.command import REPOSITORY, call
from tests.support.full_size import (
    save_chroma,
    save_flux_1_dev,
    save_flux_2_dev,
    save_flux_2_klein,
    save_lumina_2,
    save_pixart_sigma,
    save_qwen_image,
    save_sana,
    save_stable_diffusion_15,
    save_stable_diffusion_35_medium,
    save_stable_diffusion_xl,
    save_z_image_turbo,
)
from tests.support.pipelines import (
    save_tiny_flux_pipeline,
    save_tiny_pipeline,
    save_tiny_sd35_pipeline,
    save_tiny_xl_pipeline,
)
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

RECIPES = sorted((REPOSITORY / "recipes").glob("*.toml"))
LONG = ("chroma", "qwen-image", "sd35-medium", "sdxl", "sdxl-24gb")
"""Recipes whose dry runs on the full model take longest: `make test-slow` checks their figures."""
SD15, SDXL = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0"
SD35, FLUX = "stabilityai/stable-diffusion-3.5-medium", "black-forest-labs/FLUX.1-dev"
CHROMA = "lodestones/Chroma1-HD"
FLUX_2_DEV = "black-forest-labs/FLUX.2-dev"
LUMINA_2 = "Alpha-VLLM/Lumina-Image-2.0"
KLEIN = "black-forest-labs/FLUX.2-klein-base-4B"
SANA = "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers"
PIXART = "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS"
Z_IMAGE, QWEN = "Tongyi-MAI/Z-Image-Turbo", "Qwen/Qwen-Image"


def embedded(folder: Path) -> str:
    """Return the name of the embedded model, which needs no folder."""
    return "scenes"


SMALL = {
    "scenes": embedded,
    Z_IMAGE: save_tiny_z_image_pipeline,
    QWEN: save_tiny_qwen_image_pipeline,
    PIXART: save_tiny_pixart_pipeline,
    SANA: save_tiny_sana_pipeline,
    KLEIN: save_tiny_klein_pipeline,
    CHROMA: save_tiny_chroma_pipeline,
    LUMINA_2: save_tiny_lumina_2_pipeline,
    FLUX_2_DEV: save_tiny_flux_2_dev_pipeline,
    SD15: save_tiny_pipeline,
    SDXL: save_tiny_xl_pipeline,
    SD35: save_tiny_sd35_pipeline,
    FLUX: save_tiny_flux_pipeline,
}
FULL = {
    "scenes": embedded,
    Z_IMAGE: save_z_image_turbo,
    QWEN: save_qwen_image,
    PIXART: save_pixart_sigma,
    SANA: save_sana,
    KLEIN: save_flux_2_klein,
    CHROMA: save_chroma,
    LUMINA_2: save_lumina_2,
    FLUX_2_DEV: save_flux_2_dev,
    SD15: save_stable_diffusion_15,
    SDXL: save_stable_diffusion_xl,
    SD35: save_stable_diffusion_35_medium,
    FLUX: save_flux_1_dev,
}


def planned(
    recipe: Path, pipelines: Any, place: Path, size: int | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Return (command, the figures of its dry run) for the commands of a recipe, on pipelines of its class.

    `size`: pixels, in place of a size that the recipe gives: a small pipeline's latents are of half of the pixels.
    """
    tables = tomllib.loads(recipe.read_text())
    model = tables.get("gen", tables.get("online"))["model"]
    folder = pipelines[model](place / "model")
    rows = []
    for command, app, words in (
        ("gen", gen.app, ["data"]),
        ("online", train.app, ["online", "--out", "run"]),
    ):
        if command in tables:
            given = ("--height", size, "--width", size) if size and "height" in tables[command] else ()
            done = call(app, *words, "--config", recipe, "--model", folder, *given, "--dry-run", "--json")
            assert done.code == 0, done.stderr
            rows.append((command, json.loads(done.stdout)))
    if "offline" in tables:
        made = dict(tables["gen"])
        skeleton = load_skeleton(str(folder), compute_dtype=made["compute_dtype"])
        texts = read_prompts(made.pop("prompt", []), Path(made["prompts"]) if "prompts" in made else None)
        options = {k: v for k, v in made.items() if k not in ("model", "prompts", "compute_dtype", "license")}
        create(place / "data", build_spec(skeleton, prompts=texts, **options))
        done = call(
            train.app, "offline", place / "data", "--out", "run", "--config", recipe, "--dry-run", "--json"
        )
        assert done.code == 0, done.stderr
        rows.append(("offline", json.loads(done.stdout)))
    return rows


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_understood(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    for _, figures in planned(recipe, SMALL, tmp_path, size=16):
        peak = figures.get("peak_bytes") or figures["generation"]["peak_bytes"]
        assert 0 < peak < 1e9


def test_the_page_has_a_row_for_each_command_of_each_recipe() -> None:
    commands = [
        (recipe.name, command)
        for recipe in RECIPES
        for command in ("gen", "online", "offline")
        if command in tomllib.loads(recipe.read_text())
    ]
    assert [tuple(line.split(" | ")[:2]) for line in page_rows()] == [
        (f"| {recipe}", command) for recipe, command in commands
    ]


@pytest.mark.long
@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LONG else [])
        for path in RECIPES
    ],
)
def test_the_figures_of_the_full_model_are_those_of_the_page(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """recipes/README.md holds these rows."""
    monkeypatch.chdir(REPOSITORY)
    rows = [row(recipe.name, *figures) for figures in planned(recipe, FULL, tmp_path)]
    assert rows == [line for line in page_rows() if line.startswith(f"| {recipe.name} |")]


def page_rows() -> list[str]:
    """Return the rows of the table of costs in recipes/README.md."""
    lines = (REPOSITORY / "recipes" / "README.md").read_text().splitlines()
    return [line for line in lines if line.partition(" | ")[0].endswith(".toml")]


def row(recipe: str, command: str, plan: dict[str, Any]) -> str:
    """One line of the table."""
    made = plan.get("generation", plan)
    stages = plan.get("num_stages", 1)
    calls, disk, scored = 0, 0, 0
    if command != "offline":
        calls += stages * made["network_calls"] + (stages - 1) * made["network_calls"]
        disk += stages * (made["latent_bytes"] + made["image_bytes"])
        scored = plan.get("reward_queries", made["num_samples"])
    if command != "gen":
        calls += stages * plan["num_train_steps"] * plan["network_calls_per_step"] + plan["eval_calls"]
        disk += stages * plan["disk_bytes"]
    memory = max(made["peak_bytes"] if command != "offline" else 0, plan["peak_bytes"])
    cells = (f"{scored:,}" if scored else "–", f"{calls / 1e6:.1f} million", f"{disk / 1e9:.1f} GB")
    return f"| {recipe} | {command} | {' | '.join(cells)} | {memory / 1e9:.1f} GB |"
