"""`verify`: check a data set."""

from dataclasses import replace

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.integrity.replay import replay
from ppod_data.integrity.verify import DAMAGED, Report
from ppod_data.integrity.verify import verify as verify_files
from ppod_data.library.datasets import AnyDataset, open_dataset
from ppod_data.storage.files import AnyPath, data_path
from ppod_data.support.progress import SILENT, Progress


def verify(
    path: AnyPath,
    *,
    read_data: float = 1.0,
    model: DiffusionModel | None = None,
    num_trajectories: int = 64,
    progress: Progress = SILENT,
) -> Report:
    """Check a data set, and return what was found. Nothing is written.

    >>> from ppod_data import verify
    >>> verify("data").findings
    []

    Args:
        path: Folder or URL of the data set.
        read_data: Share of the shards of which every byte is read; 0 checks the structure alone.
        model: Also replay stored steps with this model, which made the data set. A damaged one is not replayed.
        num_trajectories: Trajectories to replay, in whole batches.
        progress: Counts shards.

    Raises:
        ConfigError: There is no data set, its format is newer, or another model made it.
    """
    report = verify_files(data_path(path), read_data=read_data, progress=progress)
    if model is None or report.of(DAMAGED):
        return report
    return add_replay(report, path, model, num_trajectories)


def add_replay(report: Report, dataset: AnyDataset, model: DiffusionModel, num_trajectories: int) -> Report:
    """Return a report with the replay of stored steps. Raises as `ppod_data.integrity.replay.replay`."""
    replayed = replay(open_dataset(dataset), model, num_trajectories=num_trajectories)
    report = replace(report, replay=replayed, findings=list(report.findings))
    for sample_id in replayed.other_images:
        report.add(DAMAGED, "samples", "the image is not the one that its trajectory ends in", sample_id)
    return report
