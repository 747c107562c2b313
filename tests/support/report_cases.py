"""Runs on disk for the report's tests, made up; and a parser of the page."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from ppod_train.evaluation.files import write_evaluation
from ppod_train.evaluation.metrics import EvalResult, PromptMeasurement, Scorer, summarise
from ppod_train.evaluation.settings import EvalSettings

EVIL = "</script><script>alert('x')</script> & \"dogs\""
VOID = {"meta", "input", "line", "circle", "path", "br"}


class Page(HTMLParser):
    """Checks that elements nest, and notes tags and the addresses that they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def evaluation(prompt: str, rewards: list[float], size: int = 16) -> EvalResult:
    images = tuple(Image.new("RGB", (size, size), (60 * k, 0, 0)) for k in range(len(rewards)))
    item = PromptMeasurement(
        rewards=np.array(rewards), correct=np.array(rewards) > 0, diversity=0.1, images=images
    )
    overall, prompts = summarise({prompt: item})
    return EvalResult(
        model="tiny",
        adapter=None,
        policy_fingerprint="0" * 64,
        settings=EvalSettings(prompts=(prompt,), num_images_per_prompt=len(rewards)),
        scorer=Scorer(name="scenes", revision="1"),
        check_scorer=None,
        overall=overall,
        prompts=prompts,
        measurements={prompt: item},
    )


def metrics(step: int) -> dict[str, object]:
    per_timestep = {"steps": [1, 3], "log_ratio_mean": [0.1, None], "clipped_right": [0.5, 0.25]}
    return {"step": step, "loss": 0.7 / step, "kl_estimate": float("nan"), "per_timestep": per_timestep}


def make_run(
    folder: Path, *, prompt: str = "a dog", steps: int = 60, evaluated: tuple[int, ...] = (0, 20, 40)
) -> Path:
    folder.mkdir(parents=True)
    settings = {"objective": "ppod", "log_ratio_clip": 0.002, "learning_rate": 1e-3, "note": prompt}
    (folder / "run.json").write_text(json.dumps({"settings": settings, "objective": "ppod", "pairs": "p"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(metrics(s)) + "\n" for s in range(1, steps + 1)))
    for step in evaluated:
        write_evaluation(folder / "evals" / f"step-{step:06d}", evaluation(prompt, [-1.0, step / 10, 2.0]))
    return folder


def make_online_run(folder: Path, *, prompt: str = "a dog", stages: int = 3, steps: int = 20) -> Path:
    """A finished one; the reward of stage k is k, but of the last stage it is below the one before."""
    train = {"objective": "ppod", "log_ratio_clip": 0.002, "learning_rate": 5e-4, "note": prompt}
    put(
        folder / "online.json",
        {
            "num_stages": stages,
            "settings": {"strategy": "random", "train": train},
            "prompts": [prompt],
            "identity": {"train.note": prompt, "generation": {"guidance_scale": 3.0}},
        },
    )
    for stage in range(stages + 1):
        reward = stage if stage < stages else stage - 1.5
        result = evaluation(prompt, [reward - 0.5, reward + 0.5])
        write_evaluation(folder / "evals" / f"stage-{stage:02d}", result)
    seconds = {"generate": 5.0, "score": 0.5, "pair": 0.1, "log_probs": 0.0, "train": 200.0, "evaluate": 3.0}
    for stage in range(1, stages + 1):
        run = folder / f"stage-{stage:02d}" / "run"
        put(run / "run.json", {"settings": train, "drift": {"share_exact": 1.0, "overall_p99": 0.0}})
        (run / "metrics.jsonl").write_text(
            "".join(json.dumps(metrics(s)) + "\n" for s in range(1, steps + 1))
        )
        record = {
            "stage": stage,
            "reward_queries": 100,
            "data_reward_mean": stage - 1.0,
            "outside_band_at_start": 0.1 * (stage - 1),
            "steps": steps,
            "seconds": seconds,
        }
        put(folder / f"stage-{stage:02d}" / "stage.json", record)
    return folder


def put(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
