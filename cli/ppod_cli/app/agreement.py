"""Lines about how far people and rewards agree."""

from collections.abc import Mapping, Sequence
from typing import Any


def say_agreement(
    where: str,
    dimension: str,
    people: Mapping[str, Any],
    rewards: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Return lines about a PeopleAgreement, RewardAgreements and LabelAgreements, given as plain values."""

    def plain(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.3f}"

    lines = [
        f"{where}: {people['num_labels']:,} labels of {people['num_units']:,} pairs by "
        f"{people['num_annotators']:,} people on {dimension}; ties {people['tie_rate']:.1%}"
    ]
    if people["num_units_repeated"]:
        lines.append(
            f"  between people: raw {plain(people['raw'])}, Fleiss' kappa {plain(people['fleiss_kappa'])}, "
            f"Krippendorff's alpha {plain(people['krippendorff_alpha'])} "
            f"({people['num_units_repeated']:,} pairs with several answers)"
        )
    else:
        lines.append("  between people: unknown, no pair has two answers")
    if people["self_agreement"] is not None:
        lines.append(f"  the same person again: {people['self_agreement']:.3f}")
    if side := people["first_preferred"]:
        lines.append(
            f"  first image preferred: {side['value']:.3f} ({side['low']:.3f} to {side['high']:.3f})"
        )
    for one in rewards:
        if one["accuracy"] is None:
            lines.append(f"  {one['reward']}: no pair with a winner and two different scores")
            continue
        right = one["accuracy"]
        fitted = f", temperature {one['temperature']:.3g}" if one["temperature"] else ""
        lines.append(
            f"  {one['reward']}: accuracy {right['value']:.3f} ({right['low']:.3f} to {right['high']:.3f}) on "
            f"{one['num_pairs'] - one['num_reward_ties']:,} pairs, Kendall's tau {plain(one['kendall_tau'])}{fitted}"
        )
    for one in others:
        same = one["accuracy"]
        share = f"{same['value']:.3f} ({same['low']:.3f} to {same['high']:.3f})" if same else "unknown"
        ties = f", {one['num_ties']:,} of them ties" if one["num_ties"] else ""
        lines.append(
            f"  labels/{one['labels']}: same winner {share} on {one['num_pairs']:,} pairs{ties}, "
            f"Krippendorff's alpha {plain(one['krippendorff_alpha'])}"
        )
    return lines
