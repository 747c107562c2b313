"""Changes of a data set: sealing, exclusions, other log-probabilities, combined pairs, several data sets as one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.exclusions import exclude as exclude_samples
from ppod_data.dataset.merge import merge as write_merge
from ppod_data.dataset.same_samples import count_repeats
from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.errors import ConfigError
from ppod_data.generation.log_probs import LogProbsSummary, compute_log_probs
from ppod_data.inspect.card import write_card
from ppod_data.integrity.purge import PurgeSummary
from ppod_data.integrity.purge import purge as purge_files
from ppod_data.integrity.seal import SealSummary
from ppod_data.integrity.seal import seal as seal_files
from ppod_data.labels.combine import CombineSummary, Source
from ppod_data.labels.combine import combine as combine_tables
from ppod_data.labels.settings import CombineSettings
from ppod_data.library.datasets import AnyDataset, open_dataset
from ppod_data.storage.files import AnyPath, data_path
from ppod_data.storage.folder_kinds import check_not_inside
from ppod_data.support.processes import rank_and_world_size
from ppod_data.support.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True)
class Exclusions:
    """Samples that are excluded from a data set."""

    num_added: int
    num_excluded: int
    """All excluded samples, those of earlier calls included."""
    purged: PurgeSummary | None
    """What was removed from the files; None without a purge."""


def seal(path: AnyPath, *, incomplete: bool = False, progress: Progress = SILENT) -> SealSummary:
    """Write the checksums of a data set. Arguments and errors are those of `ppod_data.integrity.seal.seal`."""
    return seal_files(data_path(path), incomplete=incomplete, progress=progress)


def exclude(
    path: AnyPath,
    sample_ids: Sequence[str] = (),
    prompts: Sequence[str] = (),
    *,
    reason: str | None = None,
    purge: bool = False,
    progress: Progress = SILENT,
) -> Exclusions:
    """Exclude samples, and all samples of prompts, from a data set, and write the card.

    Args:
        path: Folder or URL of the data set.
        sample_ids: Samples to exclude.
        prompts: Prompts whose samples are excluded.
        reason: Reason of the new entries, in one line.
        purge: Also remove everything that is excluded from the files.
        progress: Counts files of a purge.

    Raises:
        ConfigError: There is nothing to exclude, no reason, or an unknown sample or prompt.
    """
    if not sample_ids and not prompts and not purge:
        raise ConfigError("nothing to exclude: give sample ids or --prompt, or --purge for what is listed")
    if (sample_ids or prompts) and reason is None:
        raise ConfigError("no reason: give --reason TEXT, for who asks later")
    root = data_path(path)
    num_added = 0
    if sample_ids or prompts:
        num_added = exclude_samples(root, Dataset.open(root).spec, sample_ids, prompts, reason or "")
    purged = purge_files(Dataset.open(root), progress=progress) if purge else None
    write_card(root)
    return Exclusions(num_added=num_added, num_excluded=len(Dataset.open(root).excluded), purged=purged)


def log_probs(
    dataset: AnyDataset,
    model: DiffusionModel,
    *,
    name: str,
    batch_size: int | None = None,
    progress: Progress = SILENT,
) -> LogProbsSummary:
    """Compute the log-probabilities of the recorded steps under a model, and write `log_probs/NAME`.

    Processes that torchrun started share the shards. Other arguments and errors are those of
    `ppod_data.generation.log_probs.compute_log_probs`.
    """
    rank, world_size = rank_and_world_size()
    return compute_log_probs(
        open_dataset(dataset),
        model,
        name=name,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        progress=progress,
    )


def combine_pairs(
    dataset: AnyDataset,
    tables: Sequence[tuple[str, float]],
    *,
    name: str,
    settings: CombineSettings,
) -> CombineSummary:
    """Combine tables of pairs into `pairs/NAME`, and write the card.

    Args:
        dataset: A data set, or its folder or URL.
        tables: Tables of pairs with their weights.
        name: Name of the new table.
        settings: Smoothing, contradictions and the split by prompt.

    Raises as `ppod_data.labels.combine.combine`.
    """
    opened = open_dataset(dataset)
    done = combine_tables(
        opened,
        [Source(name=table, weight=weight) for table, weight in tables],
        name=name,
        **asdict(settings),
    )
    write_card(opened.root)
    return done


def merge(out: Path, datasets: Sequence[AnyPath]) -> tuple[list[Dataset], int]:
    """Name several data sets in one file. Return them, and how many samples an earlier one has as well.

    Raises as `ppod_data.dataset.merge.merge`, and ConfigError for a file inside a folder of a data set, run or
    evaluation.
    """
    check_not_inside(out, option="OUT")
    parts = write_merge(out, [data_path(dataset) for dataset in datasets])
    return parts, sum(count_repeats([part.spec for part in parts]))


def training_table(parts: Sequence[Dataset]) -> str | None:
    """Return the first table of pairs that every data set has; None if there is none."""
    names: Mapping[str, None] = dict.fromkeys(parts[0].pair_names())
    return next((name for name in names if all(name in part.pair_names() for part in parts)), None)
