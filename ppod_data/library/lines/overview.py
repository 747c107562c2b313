"""Lines on what is in a data set."""

from collections.abc import Mapping
from typing import Any

from ppod_data.dataset.dataset import Dataset
from ppod_data.format.prompts import visible
from ppod_data.format.spec import GenerationSpec
from ppod_data.inspect.overview import sparkline
from ppod_data.library.lines.agreement import agreement_lines
from ppod_data.support.formatting import amount, counted, spread


def overview_lines(dataset: Dataset, figures: Mapping[str, Any]) -> list[str]:
    """Return lines on what `ppod_data.library.exporting.describe` found in a data set."""
    spec = dataset.spec
    missing = len(figures["missing_shards"])
    lines = [
        f"{dataset.root}: {figures['num_samples']:,} of {counted(spec.num_samples, 'image')} of "
        f"{counted(len(spec.prompts), 'prompt')}, {figures['num_shards']} of {counted(spec.num_shards, 'shard')}",
        f"  model          {visible(spec.model)}"
        + (f" with {visible(spec.adapter)}" if spec.adapter else ""),
        f"  chain          {counted(spec.num_inference_steps, 'step')}{_window(spec)}, ddim_eta "
        f"{spec.ddim_eta:g}, guidance "
        f"{spec.guidance_scale:g}, {spec.latent_dtype} latents {'x'.join(map(str, spec.latent_shape))}",
        f"  images         {spec.width}x{spec.height} pixels, seed {spec.seed}"
        + ("; the images were given, their chains are drawn onto them" if spec.is_forward else ""),
        f"  licence        {visible(figures['license'])}",
        f"  fingerprint    {figures['fingerprint']}",
    ]
    if figures["num_flagged"] is not None:
        lines.append(
            f"  flagged        {counted(figures['num_flagged'], 'image')} by the model's safety checker"
        )
    lines += [f"  {folder:<14} {amount(size)}" for folder, size in figures["bytes"].items() if size]
    for name, table in figures["scores"].items():
        lines += _score_lines(name, table)
    for both in figures["agreement"]:
        if both["same_order"] is not None:
            lines.append(
                f"  {both['a']} and {both['b']}: {both['same_order']:.0%} agree of {both['compared']:,} comparisons"
                + (f", rank correlation {both['spearman']:.2f}" if both["spearman"] is not None else "")
            )
    for name, table in figures["labels"].items():
        lines += _label_lines(name, table)
    for name, table in figures["pairs"].items():
        if table["reward"]:
            source = visible(f"{table['reward']}, {table['strategy']}")
        else:
            source = visible(", ".join(table["sources"][:3]))
        lines.append(f"  pairs {name}: {table['rows']:,} by {source}" + _agreeing(table["agrees_with"]))
    if missing:
        lines.append(f"still to make: {counted(missing, 'shard')}; run the same ppod-gen command again")
    return lines


def _window(spec: GenerationSpec) -> str:
    return "" if spec.noisy_steps is None else f", noise in {spec.noisy_steps}"


def _score_lines(name: str, table: Mapping[str, Any]) -> list[str]:
    failed = f", {table['failed']:,} failed" if table["failed"] else ""
    lines = [
        f"  scores {name}: {table['rows']:,} by {visible(table['scorer'])} {visible(table['revision'])}{failed}"
    ]
    if table["mean"] is not None:
        shape = table["histogram"]
        low, high = shape["edges"][0], shape["edges"][-1]
        number = spread(low, high).number
        lines.append(f"    mean {number(table['mean'])}, median {number(table['median'])}")
        lines.append(f"    {number(low)} |{sparkline(shape['counts'])}| {number(high)}")
    return lines


def _label_lines(name: str, table: Mapping[str, Any]) -> list[str]:
    if "problem" in table:
        return [f"  labels {name}: {table['rows']:,} by people; {visible(table['problem'])}"]
    return [
        f"  {line}"
        for dimension, found in table["dimensions"].items()
        for line in agreement_lines(f"labels {name}", visible(dimension), found["people"], found["rewards"])
    ]


def _agreeing(agrees_with: Mapping[str, Any]) -> str:
    known = [
        f"{name} {score['share']:.0%}" for name, score in agrees_with.items() if score["share"] is not None
    ]
    return f"; agree: {', '.join(known)}" if known else ""
