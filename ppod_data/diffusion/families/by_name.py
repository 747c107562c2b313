"""The families that ppod knows, by the class name in a pipeline's own model_index.json."""

from collections.abc import Mapping

from ppod_data.diffusion.families import (
    chroma,
    flux,
    flux_2,
    lumina_2,
    pixart_sigma,
    qwen_image,
    sana,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
    z_image,
)
from ppod_data.diffusion.families.family import Family

FAMILIES: Mapping[str, Family] = {
    "StableDiffusionPipeline": stable_diffusion.FAMILY,
    "StableDiffusionXLPipeline": stable_diffusion_xl.FAMILY,
    "StableDiffusion3Pipeline": stable_diffusion_3.FAMILY,
    "FluxPipeline": flux.FAMILY,
    "ChromaPipeline": chroma.FAMILY,
    "Flux2KleinPipeline": flux_2.KLEIN,
    "Flux2Pipeline": flux_2.DEV,
    "ZImagePipeline": z_image.FAMILY,
    "QwenImagePipeline": qwen_image.FAMILY,
    "PixArtSigmaPipeline": pixart_sigma.FAMILY,
    "SanaPipeline": sana.FAMILY,
    "Lumina2Pipeline": lumina_2.FAMILY,
}
