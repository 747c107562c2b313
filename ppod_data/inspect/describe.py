"""The settings of a data set, as the card and the page show them."""

from ppod_data.dataset.dataset import Dataset
from ppod_data.format.prompts import visible
from ppod_data.support.formatting import counted


def settings(dataset: Dataset) -> dict[str, str]:
    """Return the settings of a data set as names and texts for display. Unset values are left out."""
    spec = dataset.spec
    chain = "flow matching" if spec.is_flow_matching else "DDIM"
    values = {
        "model": spec.model,
        "revision": spec.revision,
        "variant": spec.variant,
        "adapter": spec.adapter,
        "policy fingerprint": spec.policy_fingerprint,
        "scheduler": f"{chain}, {counted(spec.num_inference_steps, 'step')}, ddim_eta {spec.ddim_eta}",
        "noisy steps": spec.noisy_steps,
        "guidance scale": f"{spec.guidance_scale} ({spec.guidance_mode})",
        "negative prompt": spec.negative_prompt,
        "image size": f"{spec.width} x {spec.height} pixels" + (", cropped to it" if spec.is_forward else ""),
        "latents": f"{list(spec.latent_shape)} {spec.latent_dtype}, computed in {spec.compute_dtype}",
        "stored steps": spec.store_steps,
        "origin": spec.origin if spec.is_forward else None,
        "seed": f"{spec.seed} (stage {spec.stage}, {spec.purpose}, initial noise {spec.initial_noise})",
        "safety checker": spec.safety_checker,
        "shards": f"{spec.num_shards} of {counted(spec.images_per_shard, 'image')}, batches of {spec.batch_size}",
        "spec fingerprint": spec.fingerprint,
        "licence": dataset.manifest["license"],
    }
    return {name: visible(str(value)) for name, value in values.items() if value not in (None, "")}
