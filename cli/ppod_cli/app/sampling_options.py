"""The options that say how images are sampled, for every command that samples."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ppod_cli.app.options import local_only

_SAMPLE, _CHAIN, _STORAGE, _POLICY = "What to sample", "The chain", "Storage", "The policy"

DtypeName = Literal["fp32", "bf16", "fp16"]


def _above_zero(value: float | None) -> float | None:
    if value is not None and value <= 0:
        raise typer.BadParameter(
            f"must be above 0, not {value:g}: a chain without noise has no log-probabilities"
        )
    return value


Model = Annotated[
    str,
    typer.Option(
        help="scenes (shipped with ppod), a pipeline folder, or an id on the Hugging Face Hub.",
        metavar="ID",
        rich_help_panel=_SAMPLE,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(help="Commit, tag or branch of a Hub model.", metavar="R", rich_help_panel=_SAMPLE),
]
Variant = Annotated[
    str | None,
    typer.Option(
        help="Load the weight files with this word in their names, such as fp16, where the model has them.",
        metavar="WORD",
        rich_help_panel=_SAMPLE,
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option(
        help="LoRA weights on top of the model, such as a policy that ppod-train made.",
        metavar="DIR",
        rich_help_panel=_SAMPLE,
    ),
]
PolicyModel = Annotated[
    str | None,
    typer.Option(
        help="scenes, a pipeline folder, or an id on the Hugging Face Hub.",
        show_default="the model that made the data",
        metavar="ID",
        rich_help_panel=_POLICY,
    ),
]
PolicyRevision = Annotated[
    str | None,
    typer.Option(help="Commit, tag or branch of a Hub model.", metavar="R", rich_help_panel=_POLICY),
]
PolicyVariant = Annotated[
    str | None,
    typer.Option(
        help="Load the weight files with this word in their names, such as fp16, where the model has them.",
        show_default="as it made the data, where --model is not given",
        metavar="WORD",
        rich_help_panel=_POLICY,
    ),
]
PolicyAdapter = Annotated[
    str | None,
    typer.Option(
        help="LoRA weights on top of the model.",
        show_default="as it made the data, where --model is not given",
        metavar="DIR",
        rich_help_panel=_POLICY,
    ),
]
Prompt = Annotated[
    list[str] | None,
    typer.Option(help="A prompt; repeat the option for more.", metavar="TEXT", rich_help_panel=_SAMPLE),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="One prompt a line, or the prompt column of a .csv, .tsv, .json, .jsonl or .parquet file; UTF-8.",
        metavar="FILE",
        callback=local_only,
        rich_help_panel=_SAMPLE,
    ),
]
PromptColumn = Annotated[
    str | None,
    typer.Option(
        help="Column or key of the prompts in the file.",
        show_default="prompt, or the only one of caption and text",
        metavar="NAME",
        rich_help_panel=_SAMPLE,
    ),
]
DropDuplicates = Annotated[
    bool,
    typer.Option("--drop-duplicates", help="Leave repeated prompts out.", rich_help_panel=_SAMPLE),
]
NegativePrompt = Annotated[
    str,
    typer.Option(
        help="What guidance steers away from; no effect at guidance scale 1.",
        metavar="TEXT",
        rich_help_panel=_SAMPLE,
    ),
]
Height = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Of the images, in pixels.",
        show_default="the model's own",
        metavar="H",
        rich_help_panel=_SAMPLE,
    ),
]
Width = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Of the images, in pixels.",
        show_default="the model's own",
        metavar="W",
        rich_help_panel=_SAMPLE,
    ),
]
NumInferenceSteps = Annotated[
    int,
    typer.Option(min=1, max=1000, help="T: denoising steps.", metavar="T", rich_help_panel=_CHAIN),
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        min=1.0,
        help="Classifier-free guidance, 1 is none; for FLUX.1-dev the scale that it was distilled to obey.",
        show_default="1.0 for scenes, 5.0 otherwise; 4.5 for Stable Diffusion 3, 3.5 for FLUX.1-dev",
        metavar="W",
        rich_help_panel=_CHAIN,
    ),
]
GuidanceMode = Annotated[
    Literal["batched", "sequential"],
    typer.Option(
        help="Both halves of guidance in one network call, or in two (half the memory).",
        rich_help_panel=_CHAIN,
    ),
]
DdimEta = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        callback=_above_zero,
        help="Noise of a step, above 0: DDIM's eta, or the noise level of a flow-matching model.",
        show_default="1.0, for flow matching 0.7",
        metavar="ETA",
        rich_help_panel=_CHAIN,
    ),
]
NoisySteps = Annotated[
    str | None,
    typer.Option(
        help="Steps that draw noise, from step A to B - 1. The others are the sampler's own and are not trained on.",
        show_default="all, but only as many as leave no noise in the image",
        metavar="A:B",
        rich_help_panel=_CHAIN,
    ),
]
InitialNoise = Annotated[
    Literal["per-image", "per-prompt"],
    typer.Option(help="Another x_T for every image, or one for all of a prompt.", rich_help_panel=_CHAIN),
]
ComputeDtype = Annotated[
    DtypeName, typer.Option(help="Of the network and the text encoder.", rich_help_panel=_CHAIN)
]
PolicyComputeDtype = Annotated[
    DtypeName | None,
    typer.Option(help="Of the network and the text encoder.", show_default="the data set's"),
]
LatentDtype = Annotated[
    DtypeName,
    typer.Option(help="What latents are rounded to in the chain, and stored in.", rich_help_panel=_CHAIN),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Images sampled together; a part of the data set, since the last bits depend on it.",
        show_default="64, or 8 above 64 pixels",
        metavar="N",
        rich_help_panel=_CHAIN,
    ),
]
ImagesPerShard = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Images in one shard, the unit of resuming and of sharing work.",
        show_default="about 256 MiB, at most 512",
        metavar="N",
        rich_help_panel=_STORAGE,
    ),
]
SafetyCheck = Annotated[
    bool,
    typer.Option(
        "--safety-check/--no-safety-check",
        help="Note in the column flagged what the pipeline's own safety checker says of an image; no image is changed.",
        rich_help_panel=_STORAGE,
    ),
]
License = Annotated[
    str,
    typer.Option(
        help="Licence of the data set for its card, an SPDX identifier.",
        metavar="SPDX",
        rich_help_panel=_STORAGE,
    ),
]
