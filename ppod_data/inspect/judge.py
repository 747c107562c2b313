"""Recovery of the reward that made a table of pairs or scores, to judge the policies trained on the table.

The table's metadata and the score table record the reward and its `--reward` argument. The data set, and
therefore this text, may be untrusted. It must never run code that the user did not choose: a function is
imported only from the current folder, from a file that has not changed; a server is contacted only on this
machine.
"""

import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.format.provenance import provenance_of
from ppod_data.format.tables import SCORES, part_name, read_table
from ppod_data.labels.stored import PEOPLE
from ppod_data.pairs.reward_sum import name_sum
from ppod_data.rewards import BUILDERS, PromptReader, RewardModel, check_reward_name, load_reward
from ppod_data.rewards.named import spelling_of
from ppod_data.rewards.servers.addresses import is_file, is_on_this_machine
from ppod_data.rewards.weighted import WeightedReward
from ppod_data.storage.files import DataPath, sha256_file

WAYS_OUT = "give --reward NAME, which then chooses the policy, or --eval-every 0"
_REWARD = "reward:"


@dataclass(frozen=True, kw_only=True)
class JudgePart:
    """One reward model of a judge."""

    name: str
    """The reward's own name."""
    revision: str
    reward: str
    """The `--reward` argument; the name if no other spelling was recorded."""
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A loadable reward model, or a weighted sum of several."""

    name: str
    """The reward's own name, or a weighted sum of score tables in words."""
    parts: tuple[JudgePart, ...]
    source: str
    """Its origin, for messages: "pairs/wide of data"."""

    @property
    def is_sum(self) -> bool:
        """Return true if scores are multiplied and summed."""
        return len(self.parts) > 1 or self.parts[0].weight != 1

    def to_json(self) -> dict[str, Any]:
        """Return name and parts as plain values, for the record of a run."""
        return {"name": self.name, "parts": [asdict(part) for part in self.parts]}

    @classmethod
    def from_json(cls, value: object, source: str) -> "Judge":
        """Read the result of `to_json`. Raises ConfigError for any other value."""
        try:
            if not isinstance(value, dict) or not value["parts"]:
                raise TypeError("no parts")
            parts = tuple(JudgePart(**part) for part in value["parts"])
            return cls(name=str(value["name"]), parts=parts, source=source)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{source} does not say which reward judged: give --reward NAME") from error


def judge_of_tables(datasets: Sequence[Dataset], folder: str, table: str) -> Judge:
    """Return the reward that made `folder`/`table` of every data set; `folder` is pairs or scores.

    Raises:
        ConfigError: people made a table, the rewards of the data sets differ, or a table does not name its
            reward.
    """
    find = _of_pairs if folder == "pairs" else _of_scores
    judges = [find(dataset, table) for dataset in datasets]
    for judge in judges[1:]:
        if judge.parts != judges[0].parts:
            raise ConfigError(
                f"{judges[0].source} were made by {judges[0].name} {judges[0].parts[0].revision}, {judge.source} by "
                f"{judge.name} {judge.parts[0].revision}: {WAYS_OUT}"
            )
    return judges[0]


def judge_of_reward(reward: RewardModel) -> Judge:
    """Describe a loaded reward model."""
    models = reward.parts if isinstance(reward, WeightedReward) else ((1.0, reward),)
    parts = [
        JudgePart(name=model.name, revision=model.revision, reward=spelling_of(model), weight=weight)
        for weight, model in models
    ]
    return Judge(name=reward.name, parts=tuple(parts), source=reward.name)


def _of_pairs(dataset: Dataset, table: str) -> Judge:
    provenance, source = dataset.pairs_made(table), f"pairs/{table} of {dataset.root}"
    if not isinstance(provenance, Mapping):
        raise ConfigError(f"{source} do not name the reward that made them: {WAYS_OUT}")
    rewards = provenance.get("rewards")
    if isinstance(rewards, Mapping) and all(isinstance(reward, Mapping) for reward in rewards.values()):
        parts = [
            _part(dataset, name, reward.get("scorer"), reward.get("revision"), source, _weight(reward))
            for name, reward in rewards.items()
        ]
        weights = {name: part.weight for name, part in zip(rewards, parts, strict=True)}
        return Judge(name=name_sum(weights), parts=tuple(parts), source=source)
    if isinstance(provenance.get("reward"), str):
        part = _part(
            dataset, provenance["reward"], provenance.get("scorer"), provenance.get("revision"), source
        )
        return Judge(name=part.name, parts=(part,), source=source)
    if isinstance(provenance.get("combined"), Mapping):
        return _of_combined(dataset, list(provenance["combined"]), source)
    return _of_sources(dataset, table, source)


def _weight(reward: Mapping[str, Any]) -> float:
    """Return the weight of a reward of a sum, in units of its spread within prompts if the sum was normalised."""
    value, spread = reward.get("weight"), reward.get("spread")
    weight = float(value) if isinstance(value, int | float) else 1.0
    return weight / float(spread) if isinstance(spread, int | float) and spread > 0 else weight


def _of_combined(dataset: Dataset, tables: Iterable[str], source: str) -> Judge:
    """Return the judge of combined tables if one reward made them all."""
    known = dataset.pair_names()
    judges = [_of_pairs(dataset, name) for name in tables if name in known]
    if judges and len({judge.parts for judge in judges}) == 1:
        return replace(judges[0], source=source)
    raise ConfigError(f"{source} combine several judgements, which no single reward repeats: {WAYS_OUT}")


def _of_sources(dataset: Dataset, table: str, source: str) -> Judge:
    """Return the judge of pairs without metadata, from their column `source`."""
    sources: set[str] = set()
    for piece in dataset.iter_pairs(table, ["source"]):
        sources |= {str(value) for value in pc.unique(piece["source"]).to_pylist()}
    name = next(iter(sources), "").removeprefix(_REWARD)
    if len(sources) == 1 and sources == {_REWARD + name} and name in dataset.score_names():
        return replace(_of_scores(dataset, name), source=source)
    if sources and all(value.startswith(_REWARD) for value in sources):
        raise ConfigError(f"{source} do not name the reward that made them: {WAYS_OUT}")
    raise ConfigError(f"{source} are the judgement of people, which no reward repeats: {WAYS_OUT}")


def _of_scores(dataset: Dataset, table: str) -> Judge:
    source = f"scores/{table} of {dataset.root}"
    for shard in dataset.score_parts(table):
        scores = dataset.score_part(table, shard, ["sample_id", "scorer", "revision"])
        if len(scores):
            scorer, revision = scores["scorer"][0].as_py(), scores["revision"][0].as_py()
            part = _part(dataset, table, scorer, revision, source)
            return Judge(name=part.name, parts=(part,), source=source)
    raise ConfigError(f"{source} hold no scores: score again")


def _part(
    dataset: Dataset, table: str, scorer: object, revision: object, source: str, weight: float = 1.0
) -> JudgePart:
    """Describe the reward of a score table. Raises ConfigError if nothing tells how to load it."""
    name = scorer if isinstance(scorer, str) else table
    reward = _spelled(dataset, table) or name
    if ":" not in reward and reward not in BUILDERS:
        if name == PEOPLE:
            raise ConfigError(f"{source} are the judgement of people, which no reward repeats: {WAYS_OUT}")
        raise ConfigError(
            f"{source} were made by the reward {name!r}, whose location is unknown: give --reward "
            f"MODULE:{name} or its URL, or --eval-every 0"
        )
    check_reward_name(reward)
    return JudgePart(name=name, revision=str(revision), reward=reward, weight=weight)


def _spelled(dataset: Dataset, table: str) -> str | None:
    """Return the `--reward` argument if it was not the reward's own name, or None if it was not recorded."""
    if table not in dataset.score_names():
        return None
    for shard in dataset.score_parts(table)[:1]:
        path = dataset.root / "scores" / table / part_name(shard)
        value = provenance_of(read_table(path, SCORES, []).schema.metadata, path).get("reward")
        return value if isinstance(value, str) else None
    return None


def load_judge(judge: Judge, device: str, roots: Iterable[DataPath] = ()) -> RewardModel:
    """Load the reward models of a judge on `device`, in the revisions that made its tables.

    Args:
        judge: the judge.
        device: the device.
        roots: folders of data sets; functions in them are never run.

    Raises:
        ConfigError: a function is not in the current folder or has changed, a server is remote, or a revision
            differs.
        RewardUnavailableError: a server does not respond.
    """
    folders = [root for root in roots if isinstance(root, Path)]
    models: list[tuple[float, RewardModel]] = []
    for part in judge.parts:
        _check_own(part, judge.source, folders)
        model = load_reward(part.reward, device)
        if model.revision != part.revision:
            raise ConfigError(
                f"{judge.source} are by {part.name} revision {part.revision}, but {part.reward} is now revision "
                f"{model.revision}: give --reward {part.reward} to judge by it, or score again"
            )
        models.append((part.weight, model))
    return WeightedReward(judge.name, tuple(models)) if judge.is_sum else models[0][1]


def check_prompts(reward: RewardModel, prompts: Iterable[str]) -> None:
    """Raise ConfigError for the first prompt that a reward cannot read."""
    if isinstance(reward, PromptReader):
        for prompt in prompts:
            reward.check_prompt(prompt)


def must_be_named(judge: Judge, roots: Iterable[DataPath] = ()) -> bool:
    """Return true if the user must give `--reward` for `load_judge` to load this available reward."""
    if len(judge.parts) != 1 or judge.is_sum:
        return False
    part = judge.parts[0]
    folders = [root for root in roots if isinstance(root, Path)]
    try:
        _check_own(part, judge.source, folders)
    except ConfigError:
        file = _named_file(part.reward.rpartition(":")[0])
        return (
            "://" in part.reward
            or is_file(part.reward)
            or (file is not None and _is_unchanged(file, part, folders))
        )
    return False


def _check_own(part: JudgePart, source: str, folders: Sequence[Path]) -> None:
    """Raise ConfigError for a reward that only the user may choose to contact or run."""
    named = f"{source} are by the reward {part.reward}"
    if "://" in part.reward:
        if not is_on_this_machine(part.reward):
            raise ConfigError(f"{named}, a remote server: give --reward {part.reward} to use it")
        return
    if is_file(part.reward):
        _check_own_file(part.reward, named, folders)
        return
    module, colon, _ = part.reward.rpartition(":")
    if not colon or part.reward.partition(":")[0] in BUILDERS:
        return
    file = _source_file(module)
    if file is None or any(file.is_relative_to(folder.resolve()) for folder in folders):
        raise ConfigError(
            f"{named}, which is not in this folder: run the command in the folder of its file, or give "
            f"--reward {part.reward}"
        )
    if not _is_unchanged(file, part, folders):
        raise ConfigError(
            f"{named}, but {file.name} has changed since: give --reward {part.reward} to judge by the new version, "
            "or score again"
        )


def _check_own_file(reward: str, named: str, folders: Sequence[Path]) -> None:
    """Raise ConfigError for the file of a judge that is not in the current folder, or is in a data set."""
    file = Path(reward.partition(":")[2]).expanduser().resolve()
    is_inside = any(file.is_relative_to(folder.resolve()) for folder in folders)
    if is_inside or not file.is_file() or not file.is_relative_to(Path.cwd().resolve()):
        raise ConfigError(
            f"{named}, whose file is not in this folder: run the command in the folder of its file, or give "
            f"--reward {reward}"
        )


def _is_unchanged(file: Path, part: JudgePart, folders: Sequence[Path]) -> bool:
    """Return true if a file outside the data sets is the one that made the scores."""
    inside = any(file.is_relative_to(folder.resolve()) for folder in folders)
    return not inside and sha256_file(file)[:16] == part.revision


def _source_file(module: str) -> Path | None:
    """Return the file of a module or FILE.py in the current folder, or None."""
    current = Path.cwd()
    file = _in_folder(current, module)
    return file if file is not None and file.is_relative_to(current.resolve()) else None


def _in_folder(folder: Path, module: str) -> Path | None:
    stem = folder / (
        Path(module).expanduser().with_suffix("") if module.endswith(".py") else module.replace(".", "/")
    )
    for file in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
        if file.is_file():
            return file.resolve()
    return None


def _named_file(module: str) -> Path | None:
    """Return the file of FILE.py anywhere, or of an installed module, without importing it."""
    if module.endswith(".py"):
        return _in_folder(Path.cwd(), module)
    top = module.partition(".")[0]
    if not top or top in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    return _in_folder(
        Path(spec.origin).parent.parent if spec.submodule_search_locations else Path(spec.origin).parent,
        module,
    )
