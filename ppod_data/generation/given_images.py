"""A data set of images that were given: each is encoded, and a denoising chain drawn onto it by the forward process.

Shards are pure functions of (spec, i) as in `generate`, whose spec names the images by the hash of their bytes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ppod_data.diffusion.forward_process import forward_chain
from ppod_data.diffusion.models.encode import encode_images, fit_image
from ppod_data.diffusion.models.model import DiffusionModel, resized
from ppod_data.diffusion.policy import Policy
from ppod_data.format.images import decode_image, pixels_sha256
from ppod_data.format.shards import Sample
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.spec_checks import FORWARD
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import Records, to_samples
from ppod_data.generation.sampling import batch_noise, check_finite

ReadImage = Callable[[str], bytes]
"""sha256 -> the bytes of an image file."""


def build_forward_spec(
    model: DiffusionModel,
    *,
    prompts: Sequence[str],
    images: Sequence[Sequence[str]],
    guidance_scale: float | None = None,
    **options: Any,
) -> GenerationSpec:
    """Return the spec of a data set of given images.

    Args:
        model: the model.
        prompts: the prompts.
        images: for each prompt the sha256 of its image files, all different.
        guidance_scale: of the policy whose log-probabilities are recorded and that is trained. None: no classifier-free
            guidance, or the default scale of a model that reads its scale as a condition.
        options: of `generate.build_spec`.

    Raises:
        ConfigError: an option out of range, by name.
    """
    if guidance_scale is None:
        embedded = model.family.embed_negative is None
        guidance_scale = model.family.guidance_scale(model.pipeline) if embedded else 1.0
    return build_spec(
        model,
        prompts=prompts,
        images=tuple(tuple(one) for one in images),
        origin=FORWARD,
        purpose="forward",
        num_images_per_prompt=max(map(len, images)),
        guidance_scale=guidance_scale,
        **options,
    )


def forward_records(read_image: ReadImage) -> Records:
    """Return the `records` with which `generate.generate` makes the shards of a data set of given images."""
    return partial(_records, read_image)


def _records(
    read_image: ReadImage, spec: GenerationSpec, model: DiffusionModel, policy: Policy, indices: range
) -> list[Sample]:
    model = resized(model, spec.height, spec.width)
    places = [spec.place(index) for index in indices]
    files, fitted = [], []
    for prompt, k in places:
        data = read_image(spec.images[prompt][k])
        image = decode_image(data)
        files.append((data, pixels_sha256(image)))
        fitted.append(fit_image(model, image))
    initial, noise = batch_noise(spec, indices, policy.device)
    chain = forward_chain(
        policy,
        encode_images(model, fitted),
        initial_noise=initial,
        step_noise=noise,
        prompt=policy.prompts.of([prompt for prompt, _ in places]),
    )
    check_finite(chain, indices)
    return to_samples(spec, policy.schedule, indices, chain, files, [None] * len(files))
