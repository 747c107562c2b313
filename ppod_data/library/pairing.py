"""`rank_pairs`: preference pairs from scores."""

from collections.abc import Mapping

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.only_table import only_table
from ppod_data.errors import ConfigError
from ppod_data.inspect.card import write_card
from ppod_data.library.datasets import AnyDataset, open_dataset
from ppod_data.pairs.rank import PairSummary, rank
from ppod_data.pairs.reward_sum import RewardSum


def only_scores(dataset: Dataset) -> str:
    """Return the only score table of a data set. Raises ConfigError if there is none, or a choice of several."""
    return only_table([dataset], "scores", "--reward NAME")


def rank_pairs(
    dataset: AnyDataset,
    reward: str | Mapping[str, float] | RewardSum,
    *,
    name: str | None = None,
    strategy: str = "random",
    num_pairs_per_prompt: int | None = None,
    min_margin: float = 0.0,
    label_temperature: float | None = None,
    seed: int = 0,
) -> PairSummary:
    """Pair images of the same prompt by their scores, and write `pairs/NAME.parquet` and the card.

    >>> from ppod_data import rank_pairs
    >>> rank_pairs("data", "scenes", strategy="all").num_pairs
    6

    Args:
        dataset: A data set, or its folder or URL.
        reward: Name of the score table; or several names with weights, or a `RewardSum`: then an image's score is the
            weighted sum.
        name: Name of the table of pairs; the score table's unless given.
        strategy: `random`: distinct pairs at random. `best-worst`: the i-th best with the i-th worst image.
            `all`: every pair.
        num_pairs_per_prompt: Most pairs of a prompt; 256 for `random` and 1 for `best-worst` unless given.
        min_margin: The scores of a pair differ by more than this.
        label_temperature: Labels are σ(margin / label_temperature), the probability that chosen is preferred; 1 for
            None.
        seed: Seed of the strategy `random`.

    Raises:
        ConfigError: An option is out of range, a score table is unknown, or a table of this name was made otherwise.
        NothingToLearnError: There is no pair.
    """
    if name is None and not isinstance(reward, str):
        raise ConfigError("a weighted sum has no name of its own: give the pairs one with --name NAME")
    opened = open_dataset(dataset)
    done = rank(
        opened,
        reward=reward,
        name=str(reward) if name is None else name,
        strategy=strategy,
        num_pairs_per_prompt=num_pairs_per_prompt,
        min_margin=min_margin,
        label_temperature=label_temperature,
        seed=seed,
    )
    write_card(opened.root)
    return done
