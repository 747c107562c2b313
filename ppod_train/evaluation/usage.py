"""What all processes of a run have spent on rewards behind paid services."""

from dataclasses import astuple

import torch

from ppod_data.rewards.usage import Usage
from ppod_train.distributed import Workers


def usage_since(earlier: Usage | None, now: Usage | None, workers: Workers) -> Usage | None:
    """Return what all processes have spent since `earlier`; None without such costs. All processes call this."""
    if now is None:
        return None
    spent = now if earlier is None else now.since(earlier)
    counts = workers.sum(torch.tensor(astuple(spent))).tolist()
    return Usage(requests=counts[0], prompt_tokens=counts[1], answer_tokens=counts[2])
