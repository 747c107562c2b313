"""The options of a training run, one for each field of `ppod_train.settings.TrainSettings`, and of an evaluation."""

from pathlib import Path
from typing import Annotated, Literal

import typer

_LOSS, _OPTIMIZER, _COMPUTE, _KEEPING = "The loss", "The optimizer", "Compute", "Choosing the policy"

Objective = Annotated[
    Literal["ppod", "ppod-mse", "prdp", "d3po", "diffusion-dpo", "ddpo", "dpok", "sft", "sft-best"],
    typer.Option(
        help="What is minimised. On pairs: ppod (Eq. 10, cross-entropy), ppod-mse, prdp, d3po, diffusion-dpo; on "
        "single trajectories and their scores: ddpo, dpok, sft, sft-best.",
        rich_help_panel=_LOSS,
    ),
]
DpoBeta = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="The paper's η times the latent's dimensions.",
        show_default="10 for ppod",
        metavar="X",
        rich_help_panel=_LOSS,
    ),
]
LogRatioClip = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="The paper's ε, on the log-ratio averaged over latent dimensions; inf for no clip.",
        show_default="0.01 for scenes; otherwise by the chain",
        metavar="X",
        rich_help_panel=_LOSS,
    ),
]
ClipAnchor = Annotated[
    Literal["reference", "stage"] | None,
    typer.Option(
        help="The clip's band is around the reference (Eq. 10), or around the policy that made the data.",
        show_default="reference for ppod",
        rich_help_panel=_LOSS,
    ),
]
ClipMode = Annotated[
    Literal["paper", "pessimistic-step", "pessimistic-pair"] | None,
    typer.Option(
        help="Outside the band: no gradient (Eq. 10); or one where the step, or the pair, is on the wrong side.",
        show_default="paper for ppod",
        rich_help_panel=_LOSS,
    ),
]
StepWeight = Annotated[
    Literal["none", "k", "k2"] | None,
    typer.Option(
        help="Factor of a step's log-ratio before the clip: none (Eq. 10), or less for steps that move more with the "
        "prediction (k, or k2: the same change of it at every step).",
        show_default="none for scenes; otherwise k2",
        rich_help_panel=_LOSS,
    ),
]
PullBack = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Force that leads steps outside the band back to it, in units of a pair's own; 0 is Eq. 10.",
        show_default="0 for ppod",
        metavar="X",
        rich_help_panel=_LOSS,
    ),
]
KlWeight = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Weight of the closed-form KL to the reference, averaged over steps.",
        show_default="0 for ppod",
        metavar="X",
        rich_help_panel=_LOSS,
    ),
]
RewardTemperature = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="prdp: the reward difference that is one unit of the logit. sft: the standardised reward that weighs e "
        "times as much.",
        show_default="1 for ppod",
        metavar="X",
        rich_help_panel=_LOSS,
    ),
]
BestOf = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="sft-best trains on the best of every so many images.",
        show_default="8",
        metavar="K",
        rich_help_panel=_LOSS,
    ),
]
TimestepsPerUpdate = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Train on a random S of the T timesteps a step: cheaper, and an approximation.",
        show_default="all, which is exact",
        metavar="S",
        rich_help_panel=_LOSS,
    ),
]
LoraRank = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Rank of the LoRA on the attention projections; 0 trains all weights.",
        show_default="8; with --start that of its policy",
        metavar="R",
        rich_help_panel=_OPTIMIZER,
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="AdamW's.",
        show_default="0.003 for scenes; otherwise 1e-4 or 2e-4, by the model",
        metavar="X",
        rich_help_panel=_OPTIMIZER,
    ),
]
WeightDecay = Annotated[
    float, typer.Option(min=0.0, help="AdamW's.", metavar="X", rich_help_panel=_OPTIMIZER)
]
MaxGradNorm = Annotated[
    float,
    typer.Option(
        min=0.0, help="A larger gradient is scaled down to it.", metavar="X", rich_help_panel=_OPTIMIZER
    ),
]
EmaDecay = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        help="The policy is the moving average of the trained weights, with this decay; 0 is the weights themselves.",
        metavar="X",
        rich_help_panel=_OPTIMIZER,
    ),
]
NumTrainSteps = Annotated[
    int, typer.Option(min=1, help="Optimizer steps, at most.", metavar="N", rich_help_panel=_OPTIMIZER)
]
PairsPerStep = Annotated[
    int,
    typer.Option(
        min=1,
        help="Pairs in one optimizer step; twice as many trajectories for an objective without pairs.",
        metavar="P",
        rich_help_panel=_OPTIMIZER,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        min=0,
        help="Order of the pairs, timestep subsets, initial LoRA weights, validation noise.",
        metavar="SEED",
        rich_help_panel=_OPTIMIZER,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Evaluations in one network call.",
        show_default="the data set's, so that replay is exact",
        metavar="N",
        rich_help_panel=_COMPUTE,
    ),
]
Gradient = Annotated[
    Literal["auto", "one-pass", "two-pass"],
    typer.Option(
        help="auto, one-pass (keep the whole graph) or two-pass (a chunk at a time); the gradient is the same.",
        metavar="HOW",
        rich_help_panel=_COMPUTE,
    ),
]
MaxGraphGib = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Memory for a graph: of the whole update in one pass, or of a chunk.",
        show_default="a third of a GPU's, 4 on a CPU",
        metavar="GIB",
        rich_help_panel=_COMPUTE,
    ),
]
GradientCheckpointing = Annotated[
    bool,
    typer.Option(
        "--gradient-checkpointing",
        help="Compute inner activations again in the backward pass: a fraction of the memory, a third more time.",
        rich_help_panel=_COMPUTE,
    ),
]
PushToHub = Annotated[
    str | None,
    typer.Option(
        help="Upload the policy to this repository of the Hugging Face Hub, private where it is new.",
        metavar="OWNER/NAME",
        rich_help_panel="Running",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what it would take (memory, network calls, disk, time) and do nothing.",
        rich_help_panel="Running",
    ),
]
DriftSamples = Annotated[
    int,
    typer.Option(
        min=1,
        help="Pairs whose trajectories are replayed before training, to compare with the stored numbers.",
        metavar="N",
        rich_help_panel=_COMPUTE,
    ),
]
EvalEvery = Annotated[
    int,
    typer.Option(
        min=0,
        help="Steps between evaluations on validation noise; 0 for none, which keeps the last policy.",
        metavar="N",
        rich_help_panel=_KEEPING,
    ),
]
EvalImagesPerPrompt = Annotated[
    int,
    typer.Option(
        min=1, help="Images of each prompt in an evaluation.", metavar="N", rich_help_panel=_KEEPING
    ),
]
EvalPrompts = Annotated[
    Path | None,
    typer.Option(
        help="File with the prompts of the evaluations, in any form that --prompts of ppod-gen reads.",
        show_default="the trained ones",
        metavar="FILE",
        rich_help_panel=_KEEPING,
    ),
]
Patience = Annotated[
    int,
    typer.Option(
        min=0,
        help="Stop after this many evaluations without a better one; 0 for never.",
        metavar="N",
        rich_help_panel=_KEEPING,
    ),
]
CheckpointEvery = Annotated[
    int,
    typer.Option(
        min=1, help="Steps between checkpoints to resume from.", metavar="N", rich_help_panel=_KEEPING
    ),
]

EvalReward = Annotated[
    str | None,
    typer.Option(
        help="Reward model that judges, as in ppod-score.",
        show_default="the one that made the pairs or scores",
        metavar="NAME",
        rich_help_panel=_KEEPING,
    ),
]
OnlineReward = Annotated[
    str | None,
    typer.Option(
        help="Reward model that scores and judges, as in ppod-score.",
        show_default="scenes for the model scenes",
        metavar="NAME",
        rich_help_panel=_KEEPING,
    ),
]
CheckReward = Annotated[
    str | None,
    typer.Option(
        help="Second reward model, never trained on, to see reward hacking; none for none.",
        show_default="scenes-check for scenes, else none",
        metavar="NAME",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        help="Model to compare with on the same seeds; none for none.",
        show_default="the model without its adapter",
        metavar="ID",
    ),
]
BaselineAdapter = Annotated[
    str | None,
    typer.Option(
        help="LoRA of the baseline, RUN/policy of another run: two policies on the same seeds.",
        show_default=False,
        metavar="DIR",
    ),
]
EvalBatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Images sampled and scored together.",
        show_default="64, or 8 above 64 pixels",
        metavar="N",
    ),
]
