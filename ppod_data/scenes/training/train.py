"""Train the embedded world from scratch and write it into the package: `python -m ppod_data.scenes.training.train`.

Takes about two hours on one thread with the defaults. Needs the font Noto Color Emoji. Not run by CI.
"""

import argparse
import json
import logging
import platform
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from ppod_data.scenes import SCENES_PATH
from ppod_data.scenes.readers import ConvReader, PlainReader
from ppod_data.scenes.scoring import SceneScorer
from ppod_data.scenes.training.dataset import SceneSet, make_scenes
from ppod_data.scenes.training.fit_readers import Recipe, accuracy, fit_reader, round_trips
from ppod_data.scenes.training.fit_unet import fit_unet, tokenize
from ppod_data.scenes.training.fit_vae import encode_all, fit_vae
from ppod_data.scenes.training.measure import measure, unet_milliseconds
from ppod_data.scenes.training.models import build_tokenizer
from ppod_data.scenes.training.package import build_pipeline, write_pipeline, write_weights
from ppod_data.scenes.training.reader_data import Labelled, make_labelled

_log = logging.getLogger(__name__)


def main() -> None:
    """Train all parts and write them to the folder `--out`."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    data = make_scenes(options.scenes, options.seed)
    vae = fit_vae(data.images, options.vae_steps, options.batch_size, options.seed)
    vae = fit_vae(data.images, 2 * options.vae_steps, options.batch_size // 2, options.seed + 1, vae)
    readers = train_readers(vae, options)
    pipeline = train_pipeline(vae, data, options)
    write_pipeline(pipeline, options.out / "pipeline")
    for name, (network, _) in readers.items():
        write_weights(network, options.out / "scorers" / f"{name}.safetensors")
    write_record(options, {name: numbers for name, (_, numbers) in readers.items()})


def train_pipeline(vae: Any, data: SceneSet, options: argparse.Namespace) -> Any:
    """Return the pipeline with averaged weights after `options.steps` steps on the encoded scenes."""
    tokenizer = build_tokenizer()
    latents = encode_all(vae, data.images)
    tokens = tokenize(tokenizer, data.captions)
    model = fit_unet(latents, tokens, tokenizer, options.steps, options.batch_size, options.seed)
    return build_pipeline(vae, model.text_encoder, tokenizer, model.unet)


def train_readers(vae: Any, options: argparse.Namespace) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return both scorers' networks, each with its accuracy on held-out renders, plain and decoded."""
    held_out = make_labelled(2000, options.seed + 900)
    decoded = round_trips(vae, held_out.images, 0.0, torch.Generator().manual_seed(0))
    trained: dict[str, tuple[Any, dict[str, Any]]] = {}
    for name, (network, cycles) in _reader_plans(options).items():
        for data, recipe in cycles:
            fit_reader(network.train(), data, vae, recipe)
        numbers = {
            "renders": accuracy(network, held_out.images, held_out),
            "round_trips": accuracy(network, decoded, held_out),
        }
        _log.info("%s: %s", name, numbers)
        trained[name] = (network, numbers)
    return trained


def write_record(options: argparse.Namespace, readers: dict[str, Any]) -> None:
    """Write training.json: settings, versions, and measurements of the shipped fp16 weights."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(options.out / "pipeline")
    scorers = [
        SceneScorer(name, network, options.out / "scorers" / f"{name}.safetensors")
        for name, network in (("scenes", ConvReader()), ("scenes-check", PlainReader()))
    ]
    record = {
        "settings": {
            key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()
        },
        "readers": readers,
        "measured": measure(pipeline, scorers, options.measure_images, 10_000),
        "unet_ms_per_sample": round(unet_milliseconds(pipeline), 3),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
    }
    (options.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def _reader_plans(options: argparse.Namespace) -> dict[str, tuple[Any, list[tuple[Labelled, Recipe]]]]:
    """Return each reader's network and its training cycles. No data, seed or augmentation is shared."""
    seed, steps = options.seed, options.reader_steps
    few, many = make_labelled(24_000, seed + 200, 0.15), make_labelled(40_000, seed + 301, 0.15)
    return {
        "scenes": (
            ConvReader(),
            [(make_labelled(24_000, seed + 100), Recipe(steps, 64, seed + 100, 1.0, round_trip_noise=0.4))],
        ),
        "scenes-check": (
            PlainReader(),
            [
                (few, Recipe(7 * steps // 9, 64, seed + 200, 0.7, round_trip_noise=0.25)),
                (many, Recipe(steps, 64, seed + 301, 0.7, round_trip_noise=0.25, learning_rate=1.5e-3)),
            ],
        ),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=SCENES_PATH, help="folder that gets pipeline/ and scorers/"
    )
    parser.add_argument("--scenes", type=int, default=48_000, help="training scenes")
    parser.add_argument("--steps", type=int, default=16_500, help="steps of UNet and text encoder")
    parser.add_argument("--vae-steps", type=int, default=2_800)
    parser.add_argument("--reader-steps", type=int, default=4_500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--measure-images", type=int, default=512, help="images a prompt when measuring")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
