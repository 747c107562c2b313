"""What the experiments share: a method, its training at a fixed number of reward queries, and its evaluation.

Every run has a folder, with its settings and seed in run.json or online.json and its figures in result.json. What is
done is kept: a script that is killed goes on where it was, and several processes share the work (`once` takes a run by
a lock). Each uses one thread.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel, load_model
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate
from ppod_data.pairs.rank import rank
from ppod_data.rewards import load_reward
from ppod_data.scoring.score import score
from ppod_train.data.training_data import DataSource
from ppod_train.evaluation.evaluate import evaluate
from ppod_train.evaluation.files import write_evaluation
from ppod_train.evaluation.settings import EvalSettings
from ppod_train.objectives import OBJECTIVES
from ppod_train.online.online import train_online
from ppod_train.online.settings import OnlineSettings
from ppod_train.run.train import train_offline
from ppod_train.settings import TrainSettings

PAPER_PROMPTS = (
    "A green colored rabbit",
    "Four wolves in the park",
    "A cat and a dog",
    "A dog on the moon",
)
TUNING_PROMPTS = ("a red colored wolf", "three cats in the park", "a bird and a pig", "a rabbit on the beach")
QUERIES = 256
"""Images whose reward a method may ask for, for each prompt."""
EVAL_IMAGES = 512
FIGURES = (
    "reward_mean",
    "reward_low",
    "reward_high",
    "correct",
    "check_reward_mean",
    "check_correct",
    "diversity",
)
"""What the records keep of an evaluation."""
UPDATE = {"pairs_per_step": 8, "timesteps_per_update": 5, "lr_scheduler": "constant", "eval_every": 0}
"""Of every run: 8 pairs or 16 trajectories and 5 of 19 timesteps an update."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """An objective with its settings, and how often it makes new data."""

    objective: str
    stages: int = 1
    """1 is offline."""
    updates_per_query: float = 1.5
    """Optimizer steps for each reward query."""
    replay_stages: int | None = None
    """Earlier stages whose data each stage trains on again, where it is not the objective's default."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of training, where they are not the objective's defaults."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Of the generation spec."""
    pairs: Mapping[str, Any] = field(default_factory=dict)
    """Of pairing."""


def slug(prompt: str) -> str:
    """Return a prompt as a folder's name."""
    return prompt.lower().replace(" ", "-")


def make_data(
    root: Path,
    prompts: Sequence[str],
    *,
    images: int,
    seed: int,
    pairs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """Make a scored data set of the pretrained model with random pairs, `images` of each prompt; keep shards."""
    spec = build_spec(
        load_model("scenes"), prompts=prompts, num_images_per_prompt=images, seed=seed, **options
    )
    with _in_turn(root.parent / f"{root.name}.lock"):
        if not (root / "pairs").exists():
            generate(root, spec, load_model("scenes"), shards=range(spec.num_shards))
            score(Dataset.open(root), load_reward("scenes"), name="scenes")
        dataset = Dataset.open(root)
        rank(dataset, reward="scenes", name="scenes", seed=seed, **pair_options(images, pairs))
    return dataset


def pair_options(images: int, pairs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Four random pairs an image, with a margin of more than half a point of log-likelihood."""
    return {"num_pairs_per_prompt": 4 * images, "min_margin": 0.5, **(pairs or {})}


def load(source: ModelSource) -> DiffusionModel:
    """Load a policy on one CPU thread."""
    return load_model(source.model, adapter=source.adapter)


def train(
    folder: Path,
    method: Method,
    prompts: Sequence[str],
    *,
    seed: int,
    queries: int = QUERIES,
    updates: int | None = None,
    shared: Path | None = None,
) -> Path:
    """Train in `folder` at `queries` reward queries a prompt; returns its policy.

    Args:
        updates: optimizer steps, where they are not the method's for so many queries.
        shared: folder for offline data sets, which several methods use.
    """
    images = queries // method.stages
    steps = (updates or round(method.updates_per_query * queries)) // method.stages
    own = {"num_train_steps": steps, "checkpoint_every": steps, "seed": seed}
    settings = TrainSettings(objective=method.objective, **{**UPDATE, **own, **method.settings})
    if method.stages == 1:
        root = (shared or folder) / "data"
        make_data(root, prompts, images=images, seed=seed, pairs=method.pairs, **method.data)
        source = DataSource(roots=[root], pairs="scenes", scores="scenes")
        train_offline(source, folder / "run", settings, model=load_model("scenes"), reward=None)
        return folder / "run" / "policy"
    train_online(
        folder / "run",
        OnlineSettings(
            num_stages=method.stages,
            replay_stages=method.replay_stages,
            eval_images_per_prompt=0,
            train=settings,
            **(pair_options(images, method.pairs) if OBJECTIVES[method.objective].on_pairs else {}),
        ),
        reference=ModelSource(model="scenes"),
        build_spec=partial(
            build_spec, prompts=tuple(prompts), num_images_per_prompt=images, seed=seed, **method.data
        ),
        load=load,
        reward=load_reward("scenes"),
    )
    return folder / "run" / "policy"


def judge(
    folder: Path, policy: Path | None, prompts: Sequence[str], *, images: int = EVAL_IMAGES, seed: int = 0
) -> dict[str, Any]:
    """Evaluate a policy (None: the pretrained model) on the evaluation noise; writes folder/eval, returns figures."""
    model = load(ModelSource(model="scenes", adapter=None if policy is None else str(policy)))
    settings = EvalSettings(prompts=tuple(prompts), num_images_per_prompt=images, seed=seed)
    result = evaluate(model, load_reward("scenes"), settings, check_reward=load_reward("scenes-check"))
    write_evaluation(folder / "eval", result)
    return asdict(result.overall)


def once(folder: Path, run: Callable[[Path], dict[str, Any]]) -> dict[str, Any] | None:
    """Return the result of `run(folder)`, kept in folder/result.json; None while another process computes it."""
    result = folder / "result.json"
    if not result.exists():
        if not _claimed(folder):
            return None
        print(folder, flush=True)
        record = run(folder)
        temporary = folder / "result.json.tmp"
        temporary.write_text(json.dumps(record, indent=1) + "\n")
        temporary.rename(result)
    record = json.loads(result.read_text())
    assert isinstance(record, dict)
    return record


def add(record: Path, keys: Sequence[str], row: Mapping[str, Any]) -> None:
    """Put a row into a record of nested names; processes that share the work write it in turn."""
    record.parent.mkdir(exist_ok=True)
    with record.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        rows: dict[str, Any] = json.loads(file.read() or "{}")
        place = rows
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = row
        file.truncate(0)
        file.write(json.dumps(rows, indent=1) + "\n")


def recorded(record: Path, keys: Sequence[str]) -> dict[str, Any] | None:
    """Return a row that `add` has put into a record, on this machine or before; None without one."""
    if not record.exists():
        return None
    with record.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        place = json.loads(file.read() or "{}")
    for key in keys:
        place = place.get(key, {})
    return place or None


@contextmanager
def _in_turn(lock: Path) -> Iterator[None]:
    """Let one process at a time in."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _claimed(folder: Path) -> bool:
    """Whether this process has the run; the lock of a process that is gone is taken over."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "lock"
    try:
        descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        owner = lock.read_text()
        if owner and Path(f"/proc/{owner}").exists():
            return False
        lock.write_text(str(os.getpid()))
        return True
    os.write(descriptor, str(os.getpid()).encode())
    os.close(descriptor)
    return True
