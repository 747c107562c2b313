"""README.md of a trained policy: description, training, evaluation and usage in diffusers.

The file is written next to the weights from the run's records, so that the folder can be uploaded as it is.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ppod_data.diffusion.adapters.config import PEFT_FILE
from ppod_data.format.prompts import visible
from ppod_data.inspect.markdown import code, front_matter, plain
from ppod_data.storage.files import atomic_write
from ppod_data.storage.json_reader import read_object
from ppod_data.support.formatting import UNKNOWN, Precision, counted, percent, precision
from ppod_train.evaluation.files import read_evaluation
from ppod_train.evaluation.metrics import Metrics
from ppod_train.report.runs import read_run
from ppod_train.report.verdict import verdict
from ppod_train.run.run_folder import evaluation_folder
from ppod_train.settings import TrainSettings

_SHOWN_PROMPTS = 20


def write_model_card(out: Path) -> None:
    """Write OUT/policy/README.md for a finished run, offline or online. The text depends only on the run."""
    online = out / "online.json"
    record = read_object(online if online.exists() else out / "run.json")
    summary = read_object(out / "summary.json")
    if online.exists():
        settings, data = record["settings"]["train"], _stage_data(out, summary["stages"])
        how = f"online in {counted(summary['stages'], 'stage')}; the policy is that of stage {summary['best_stage']}"
        before, after = out / "evals" / "stage-00", out / "evals" / f"stage-{summary['best_stage']:02d}"
    else:
        settings, data = record["settings"], [record["identity"]["data_fingerprint"]]
        how = f"offline; the policy is that of step {summary['best_step']}"
        if summary.get("improved") is False:
            how = f"offline for {counted(summary['steps'], 'step')}"
        before, after = (evaluation_folder(out, step) for step in (0, summary["best_step"]))
    sections = [
        _front_matter(record["model"], bool(settings["lora_rank"])),
        f"# {plain(record['model'])}, tuned by preference optimization",
        f"Trained by ppod with the objective {code(settings['objective'])}, {how}.",
        f"**{plain(verdict(read_run(out)))}**",
        usage(record, bool(settings["lora_rank"]), peft=(out / "policy" / PEFT_FILE).is_file()),
        _evaluation(before, after, record["reward"]),
        _settings(settings, data),
        _prompts(record["prompts"]),
    ]
    text = "\n\n".join(section for section in sections if section) + "\n"
    atomic_write(out / "policy" / "README.md", text.encode())


def _stage_data(out: Path, stages: int) -> list[str]:
    paths = [out / f"stage-{stage:02d}" / "run" / "run.json" for stage in range(1, stages + 1)]
    return [read_object(path)["identity"]["data_fingerprint"] for path in paths]


def _front_matter(model: str, lora: bool) -> str:
    """Return the YAML front matter."""
    from huggingface_hub import ModelCardData

    on_hub = model.count("/") == 1 and not Path(model).exists()
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=model if on_hub else None,
        base_model_relation="adapter" if on_hub and lora else None,
        tags=["text-to-image", "preference-optimization", "ppod", *(["lora"] if lora else [])],
    )
    return front_matter(data)


def usage(record: Mapping[str, Any], lora: bool, *, peft: bool = False) -> str:
    """Return the section with the diffusers code that samples images with the policy and the run's sampler.

    Args:
        record: The run's settings.
        lora: The policy is a LoRA and not a whole pipeline.
        peft: The LoRA is in peft's files, for a pipeline without LoRA in diffusers.
    """
    model, prompt = record["model"], (record["prompts"] or ["a cat and a dog"])[0]
    sampler = record.get("generation") or {}
    base = json.dumps(model) if lora else '"THIS_FOLDER"'
    imports = []
    if lora and model == "scenes":
        base, imports = "PIPELINE_PATH", ["", "from ppod_data.scenes import PIPELINE_PATH"]
    model_options = {name: sampler.get(name) for name in ("revision", "variant") if lora}
    source = "".join(f", {name}={json.dumps(value)}" for name, value in model_options.items() if value)
    options = {name: sampler[name] for name in ("num_inference_steps", "guidance_scale") if name in sampler}
    if sampler.get("negative_prompt"):
        options["negative_prompt"] = sampler["negative_prompt"]
    is_flow = bool(sampler.get("is_flow_matching"))
    whole = sampler.get("noisy_steps") in (None, f"0:{sampler.get('num_inference_steps')}")
    if not is_flow and whole:  # diffusers draws noise in every step or in none
        options["eta"] = sampler.get("ddim_eta", 1.0)
    arguments = "".join(
        f", {name}={json.dumps(value, ensure_ascii=False)}" for name, value in options.items()
    )
    load = 'pipe.load_lora_weights("THIS_FOLDER")'
    if peft:
        imports.append("from peft import PeftModel")
        load = 'pipe.transformer = PeftModel.from_pretrained(pipe.transformer, "THIS_FOLDER")'
    lines = [
        "```python",
        f"from diffusers import {'' if is_flow else 'DDIMScheduler, '}DiffusionPipeline",
        *imports,
        "",
        f"pipe = DiffusionPipeline.from_pretrained({base}{source})",
        *([load] if lora else []),
        *([] if is_flow else ["pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)"]),
        f"image = pipe({json.dumps(visible(prompt), ensure_ascii=False)}{arguments}).images[0]",
        "```",
    ]
    return "## Use\n\n" + "\n".join(lines)


def _evaluation(before: Path, after: Path, reward: str) -> str:
    """Return a table of the evaluation that chose the policy, on validation noise; "" without evaluations."""
    if not (before / "eval.json").exists() or not (after / "eval.json").exists():
        return ""
    folders = [("before", before), ("after", after)] if after != before else [("before and after", before)]
    metrics = [read_evaluation(folder).overall for _, folder in folders]
    number_format = precision(
        [item.reward_mean for item in metrics], [(item.reward_low, item.reward_high) for item in metrics]
    )
    rows = [_row(name, item, number_format) for (name, _), item in zip(folders, metrics, strict=True)]
    return "\n".join(
        [
            "## Evaluation",
            "",
            f"By the reward {code(reward)} on validation noise, on which the policy was chosen; mean and 95 % "
            "interval.",
            "",
            "| | images | reward | correct | better than before |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def _row(name: str, metrics: Metrics, number_format: Precision) -> str:
    reward = number_format.with_interval(metrics.reward_mean, metrics.reward_low, metrics.reward_high)
    better = UNKNOWN if name != "after" else percent(metrics.win_rate)
    return f"| {name} | {metrics.num_images:,} | {reward} | {percent(metrics.correct)} | {better} |"


def _settings(settings: Mapping[str, Any], data: list[str]) -> str:
    """Return the settings that differ from the trainer's defaults, the main settings and the data's sha256."""
    defaults = TrainSettings()
    changed = {
        field.name: settings[field.name]
        for field in fields(TrainSettings)
        if settings.get(field.name) != getattr(defaults, field.name)
    }
    main = ("dpo_beta", "log_ratio_clip", "learning_rate", "lora_rank", "num_train_steps", "pairs_per_step")
    values = {"objective": settings["objective"], **{name: settings[name] for name in main}, **changed}
    lines = [f"- {name}: {code(str(value))}" for name, value in values.items()]
    lines += [f"- data, sha256: {code(fingerprint)}" for fingerprint in data]
    return "## Training\n\n" + "\n".join(lines)


def _prompts(prompts: list[str]) -> str:
    lines = [f"- {plain(prompt)}" for prompt in prompts[:_SHOWN_PROMPTS]]
    if len(prompts) > _SHOWN_PROMPTS:
        lines.append(f"- and {len(prompts) - _SHOWN_PROMPTS:,} more")
    return "## Prompts\n\n" + "\n".join(lines)
