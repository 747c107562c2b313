"""What is said of prompts before they are sampled: which are cut, and which the scenes scorers cannot read."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppod_data.diffusion.models.model import DiffusionModel
    from ppod_data.format.spec import GenerationSpec


def prompt_notes(model: "DiffusionModel", spec: "GenerationSpec") -> list[str]:
    """Return a line on prompts that the model cuts, and one on prompts that no scenes scorer can judge."""
    from ppod_data.diffusion.models.long_prompts import describe_cut_prompts

    cut = describe_cut_prompts(model, spec.prompts, spec.negative_prompt)
    notes = [] if cut is None else [cut]
    return [*notes, *_unreadable(spec.prompts)] if spec.model == "scenes" else notes


def _unreadable(prompts: "Sequence[str]") -> list[str]:
    from ppod_data.scenes.captions import GRAMMAR, unreadable

    if not (refused := unreadable(prompts)):
        return []
    shown = refused[0] if len(refused[0]) <= 40 else refused[0][:39] + "…"
    return [
        f"the scenes scorers cannot read {len(refused):,} of {len(prompts):,} prompts, such as {shown!r}: "
        f"{GRAMMAR}, or score with another reward"
    ]
