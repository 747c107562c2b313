"""`score`: rate the images of a data set."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack

from ppod_data.cluster.adaptive import score_adaptively
from ppod_data.cluster.engines import started_engine
from ppod_data.cluster.jobs import score_engine, score_job
from ppod_data.cluster.local_processes import LocalProcesses, choose_processes
from ppod_data.cluster.ray_engine import RayCluster
from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.inspect.card import write_card
from ppod_data.library.datasets import AnyDataset, open_dataset
from ppod_data.rewards import RewardModel, check_reward_name, load_reward
from ppod_data.rewards.usual import usual_reward
from ppod_data.scoring.score import Engine, ScoreSummary, score_all
from ppod_data.support.progress import SILENT, Progress


def score(
    dataset: AnyDataset,
    reward: str | RewardModel,
    *,
    name: str | None = None,
    batch_size: int = 64,
    retry_failed: bool = False,
    shards: Collection[int] | None = None,
    device: str | RayCluster = "cpu",
    progress: Progress = SILENT,
) -> ScoreSummary:
    """Score the images of a data set by a reward model, and write `scores/NAME` and the card.

    Run the same call again to score new shards. An image that cannot be scored gets the reason instead of a score.

    >>> from ppod_data import score
    >>> score("data", "scenes").num_scores
    4

    Args:
        dataset: A data set, or its folder or URL.
        reward: A reward model, or what `load_reward` takes.
        name: Name of the table; the reward's own unless given.
        batch_size: Images that the reward model sees at once.
        retry_failed: Score the images again that failed before.
        shards: Numbers of the shards to score; all that are made unless given. A call with a share of the shards also
            writes failures when every image fails, because other workers may be able to score theirs.
        device: Torch device of the reward model, or a Ray cluster whose workers score.
        progress: Counts images.

    Raises:
        ConfigError: The table holds scores of another reward or of other images, or no image can be scored.
        RewardError: The reward raises for all of its first images, or does not give one number an image.
        DamagedError: An image is not the one that its row describes.
        RewardUnavailableError: The reward's server stopped answering; finished shards are kept.
    """
    names = None if name is None else [name]
    return score_by(
        dataset,
        [reward],
        names=names,
        batch_size=batch_size,
        retry_failed=retry_failed,
        shards=shards,
        device=device,
        progress=progress,
    )[0]


def score_by(
    dataset: AnyDataset,
    rewards: Sequence[str | RewardModel],
    *,
    names: Sequence[str] | None = None,
    batch_size: int = 64,
    retry_failed: bool = False,
    shards: Collection[int] | None = None,
    device: str | RayCluster | LocalProcesses = "cpu",
    progress: Progress = SILENT,
) -> list[ScoreSummary]:
    """Score by several reward models, and decode each image once. Other arguments and errors are those of `score`.

    Args:
        dataset: A data set, or its folder or URL.
        rewards: Reward models, or what `load_reward` takes.
        names: Name of the table of each reward; the reward's own unless given.
        device: Also processes of this machine. Processes load the rewards themselves.

    Raises:
        ConfigError: Two tables would have the same name.
    """
    opened = open_dataset(dataset)
    with ExitStack() as stack:
        on_ray = stack.enter_context(started_engine(device)) if isinstance(device, RayCluster) else None
        if isinstance(device, LocalProcesses):
            place = choose_processes(device, shares=1, memory=0).devices[0]
        else:
            place = on_ray.device if on_ray else str(device)
        models = _by_name(rewards, names, "cpu" if on_ray else place)
        job = score_job(opened, rewards, models, batch_size=batch_size, retry_failed=retry_failed)
        engine: Engine | None = None
        if isinstance(device, LocalProcesses):
            engine = score_adaptively(job, device, progress)
        elif on_ray:
            engine = score_engine(job, on_ray.map_shards, progress)
        done = score_all(
            opened,
            models,
            batch_size=batch_size,
            retry_failed=retry_failed,
            device=place,
            shards=shards,
            progress=progress,
            engine=engine,
        )
    write_card(opened.root)
    return done


def rewards_of(names: Sequence[str], dataset: Dataset | None = None) -> list[str]:
    """Return the names of rewards without repeats; the usual reward of a data set if none is named.

    Raises:
        ConfigError: A reward is unknown, or no reward is usual for the model of the data set.
    """
    if not names and dataset is not None:
        return [usual_reward(dataset.spec.model)]
    return list(dict.fromkeys(check_reward_name(name) for name in names))


def _by_name(
    rewards: Sequence[str | RewardModel], names: Sequence[str] | None, device: str
) -> dict[str, RewardModel]:
    """Load the rewards, by the names of their tables."""
    models: dict[str, RewardModel] = {}
    for index, reward in enumerate(rewards):
        model = load_reward(reward, device) if isinstance(reward, str) else reward
        name = model.name if names is None else names[index]
        if name in models:
            raise ConfigError(f"two rewards are called {name}: score one of them alone, with --as NAME")
        models[name] = model
    return models
