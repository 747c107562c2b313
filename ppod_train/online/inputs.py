"""What every phase of an online run reads: settings, models and rewards, and the run's folders."""

from dataclasses import dataclass, replace
from pathlib import Path

from ppod_data.diffusion.models.source import ModelSource
from ppod_data.rewards import RewardModel
from ppod_data.support.progress import Named, Progress
from ppod_train.distributed import Workers
from ppod_train.online.records import BuildSpec, LoadPolicy
from ppod_train.online.settings import OnlineSettings


@dataclass(frozen=True, kw_only=True)
class OnlineRun:
    """Inputs of every phase."""

    out: Path
    settings: OnlineSettings
    reference: ModelSource
    build_spec: BuildSpec
    load: LoadPolicy
    reward: RewardModel
    check: RewardModel | None
    progress: Progress
    workers: Workers

    def phase(self, stage: int, name: str) -> Progress:
        """Show the name of a phase that begins, and return its progress."""
        title = f"stage {stage}/{self.settings.num_stages} {name}" if stage else f"before: {name}"
        return Named(self.progress, title)

    def folder(self, stage: int) -> Path:
        """Return the folder of a stage."""
        return self.out / f"stage-{stage:02d}"

    def policy_folder(self, stage: int) -> Path:
        """Return the folder of the policy that a stage trained."""
        return self.folder(stage) / "run" / "policy"

    def policy(self, stage: int) -> ModelSource:
        """Return the policy after `stage` stages."""
        if stage == 0:
            return self.reference
        folder = str(self.policy_folder(stage))
        if self.settings.train.lora_rank == 0:
            return replace(self.reference, model=folder, revision=None, variant=None)
        return replace(self.reference, adapter=folder)
