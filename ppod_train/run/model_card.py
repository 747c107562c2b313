"""README.md of a trained policy: description, training, evaluation and usage in diffusers.

The file is written next to the weights from the run's records, so that the folder can be uploaded as it is.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ppod_data.diffusion.adapters.config import PEFT_FILE
from ppod_data.inspect.markdown import code, front_matter, plain
from ppod_data.storage.files import atomic_write
from ppod_data.storage.json_reader import read_object
from ppod_data.support.formatting import UNKNOWN, Precision, counted, percent, precision
from ppod_train.evaluation.files import read_evaluation
from ppod_train.evaluation.metrics import Metrics
from ppod_train.report.runs import read_run
from ppod_train.report.verdict import verdict
from ppod_train.run.run_folder import evaluation_folder
from ppod_train.run.usage import usage
from ppod_train.settings import TrainSettings

_SHOWN_PROMPTS = 20


def write_model_card(out: Path) -> None:
    """Write OUT/policy/README.md for a finished run, offline or online. The text depends only on the run."""
    online = out / "online.json"
    record = read_object(online if online.exists() else out / "run.json")
    summary = read_object(out / "summary.json")
    if online.exists():
        stages = _stage_records(out, summary["stages"])
        settings, data = (
            record["settings"]["train"],
            [stage["identity"]["data_fingerprint"] for stage in stages],
        )
        record = record | {"own_call": stages[-1].get("own_call")}
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


def _stage_records(out: Path, stages: int) -> list[dict[str, Any]]:
    """Return run.json of the training of each stage."""
    return [read_object(out / f"stage-{stage:02d}" / "run" / "run.json") for stage in range(1, stages + 1)]


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
