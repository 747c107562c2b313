"""Code of a policy's card: diffusers' own call that samples images with the policy as the run did.

`own_call` reads from the loaded model what the call needs, and run.json keeps it; `usage` writes the code from the
records alone.
"""

from collections.abc import Mapping
from typing import Any

from ppod_data.diffusion.ddim import ends_as_diffusers
from ppod_data.diffusion.families.by_name import FAMILIES
from ppod_data.diffusion.families.own_call import classifier_free, literal
from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.format.prompts import visible
from ppod_data.format.spec import GenerationSpec

_DDIM = "DDIMScheduler"
_EULER = "FlowMatchEulerDiscreteScheduler"


def own_call(model: DiffusionModel, spec: GenerationSpec) -> dict[str, Any]:
    """Return what diffusers' own call needs for the chains of `spec` beside the sampler settings, as JSON values.

    Returns:
        pipeline: The class.
        absent: Components that the pipeline was saved without, and that `from_pretrained` asks for.
        scheduler: The class in place of the pipeline's own, or None.
        scheduler_options: What that class would not take from the pipeline's scheduler by itself.
        same_steps: False if diffusers' steps end at other timesteps.
    """
    pipeline = model.pipeline
    kind = type(pipeline)
    call: dict[str, Any] = {
        "pipeline": kind.__name__,
        "absent": [
            name
            for name in model.family.components
            if getattr(pipeline, name) is None and name not in kind._optional_components
        ],
        "scheduler": None,
        "scheduler_options": {},
        "same_steps": True,
    }
    own = pipeline.scheduler.config
    if not spec.is_flow_matching:
        options = _silent(own, spec.scheduler)
        same_steps = ends_as_diffusers(spec.scheduler, spec.num_inference_steps)
        call |= {"scheduler": _DDIM, "scheduler_options": options, "same_steps": same_steps}
    elif type(pipeline.scheduler).__name__ != _EULER:  # Sana's multi-step solver
        call |= {"scheduler": _EULER, "scheduler_options": {"shift": own["flow_shift"]}}
    return call


def _silent(own: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a DDIM configuration that `DDIMScheduler.from_config(own)` has otherwise."""
    from diffusers import DDIMScheduler

    converted = DDIMScheduler.from_config(own).config
    return {name: value for name, value in sorted(config.items()) if _plain(converted[name]) != value}


def _plain(value: Any) -> Any:
    return (
        value if value is None or isinstance(value, str | bool | int | float) else [float(x) for x in value]
    )


def usage(record: Mapping[str, Any], lora: bool, *, peft: bool = False) -> str:
    """Return the section with the diffusers code that samples images with the policy and the run's sampler.

    Args:
        record: The run's settings.
        lora: The policy is a LoRA and not a whole pipeline.
        peft: The LoRA is in peft's files, for a pipeline without LoRA in diffusers.
    """
    sampler, call = record.get("generation") or {}, _recorded_call(record)
    scheduler, options = call["scheduler"], call["scheduler_options"]
    names = sorted({"DiffusionPipeline", *([scheduler] if scheduler else [])})
    imports, base = [f"from diffusers import {', '.join(names)}"], literal("THIS_FOLDER")
    if lora:
        base = literal(record["model"])
        if record["model"] == "scenes":
            base = "PIPELINE_PATH"
            imports += ["", "from ppod_data.scenes import PIPELINE_PATH"]
    load = 'pipe.load_lora_weights("THIS_FOLDER")'
    if peft:
        imports.append("from peft import PeftModel")
        load = 'pipe.transformer = PeftModel.from_pretrained(pipe.transformer, "THIS_FOLDER")'
    model_options = {name: sampler[name] for name in ("revision", "variant") if lora and sampler.get(name)}
    model_options |= dict.fromkeys(call["absent"])
    lines = [
        *imports,
        "",
        f"pipe = DiffusionPipeline.from_pretrained({_arguments(base, model_options)})",
        *([load] if lora else []),
    ]
    if scheduler:
        lines.append(
            f"pipe.scheduler = {scheduler}.from_config({_arguments('pipe.scheduler.config', options)})"
        )
    lines += [
        "image = pipe(",
        *(f"    {name}={source}," for name, source in _call_options(record).items()),
        ").images[0]",
    ]
    return "\n".join(["## Use", "", "```python", *lines, "```", *_notes(sampler, call)])


def _recorded_call(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record's `own_call`; for a run from before that record, the call of its kind of chain."""
    is_flow = bool((record.get("generation") or {}).get("is_flow_matching"))
    older: dict[str, Any] = {
        "pipeline": None,
        "absent": [],
        "scheduler": None if is_flow else _DDIM,
        "scheduler_options": {},
        "same_steps": True,
    }
    return older | (record.get("own_call") or {})


def _call_options(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of the pipeline's call as Python source."""
    sampler, call = record.get("generation") or {}, _recorded_call(record)
    prompt = (record["prompts"] or ["a cat and a dog"])[0]
    values = {name: sampler[name] for name in ("height", "width", "num_inference_steps") if name in sampler}
    options = {name: literal(value) for name, value in {"prompt": visible(prompt), **values}.items()}
    if "guidance_scale" in sampler:
        family = FAMILIES.get(call["pipeline"])
        guide = family.call_options if family else classifier_free
        options |= guide(sampler["guidance_scale"], sampler.get("negative_prompt") or "")
    if call["scheduler"] == _EULER:
        steps = sampler["num_inference_steps"]
        options["sigmas"] = f"[1 - step / {steps} for step in range({steps})]"
    if call["scheduler"] == _DDIM and _draws_everywhere(sampler):
        options["eta"] = literal(sampler.get("ddim_eta", 1.0))
    return options


def _draws_everywhere(sampler: Mapping[str, Any]) -> bool:
    """Return True if every step draws noise: diffusers' DDIM draws noise in every step or in none."""
    return sampler.get("noisy_steps") in (None, f"0:{sampler.get('num_inference_steps')}")


def _notes(sampler: Mapping[str, Any], call: Mapping[str, Any]) -> list[str]:
    """Return the paragraphs that say how images of this call differ from the run's."""
    notes = []
    if sampler.get("noisy_steps") and (sampler.get("is_flow_matching") or not _draws_everywhere(sampler)):
        first, end = map(int, sampler["noisy_steps"].split(":"))
        steps = f"step {first}" if end == first + 1 else f"steps {first} to {end - 1}"
        notes += [
            "",
            f"The run drew noise in {steps}, and this call draws none: it is the sampler without noise.",
        ]
    if not call["same_steps"]:
        notes += [
            "",
            "The run's DDIM steps end at the next timestep of the schedule's list, and those of diffusers at a fixed "
            "distance, so images differ.",
        ]
    return notes


def _arguments(first: str, options: Mapping[str, Any]) -> str:
    """Return the arguments of a call as Python source."""
    return ", ".join([first, *(f"{name}={literal(value)}" for name, value in options.items())])
