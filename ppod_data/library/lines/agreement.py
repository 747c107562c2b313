"""Lines on how far people and rewards agree."""

from collections.abc import Mapping, Sequence
from typing import Any

from ppod_data.support.formatting import counted


def agreement_lines(
    title: str,
    dimension: str,
    people: Mapping[str, Any],
    rewards: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Return lines on a PeopleAgreement, RewardAgreements and LabelAgreements, given as dictionaries."""

    def plain(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.3f}"

    lines = [
        f"{title}: {counted(people['num_labels'], 'label')} of {counted(people['num_units'], 'pair')} by "
        f"{counted(people['num_annotators'], 'person', 'people')} on {dimension}; ties {people['tie_rate']:.1%}"
    ]
    if people["num_units_repeated"]:
        lines.append(
            f"  between people: raw {plain(people['raw'])}, Fleiss' kappa {plain(people['fleiss_kappa'])}, "
            f"Krippendorff's alpha {plain(people['krippendorff_alpha'])} "
            f"({counted(people['num_units_repeated'], 'pair')} with several answers)"
        )
    else:
        lines.append("  between people: unknown, no pair has two answers")
    if people["self_agreement"] is not None:
        lines.append(f"  the same person again: {people['self_agreement']:.3f}")
    if side := people["first_preferred"]:
        lines.append(
            f"  first image preferred: {side['value']:.3f} ({side['low']:.3f} to {side['high']:.3f})"
        )
    for reward in rewards:
        if reward["accuracy"] is None:
            lines.append(f"  {reward['reward']}: no pair with a winner and two different scores")
            continue
        right = reward["accuracy"]
        fitted = f", temperature {reward['temperature']:.3g}" if reward["temperature"] else ""
        num_compared = reward["num_pairs"] - reward["num_reward_ties"]
        lines.append(
            f"  {reward['reward']}: accuracy {right['value']:.3f} ({right['low']:.3f} to {right['high']:.3f}) on "
            f"{counted(num_compared, 'pair')}, Kendall's tau {plain(reward['kendall_tau'])}{fitted}"
        )
    for other in others:
        same = other["accuracy"]
        share = f"{same['value']:.3f} ({same['low']:.3f} to {same['high']:.3f})" if same else "unknown"
        ties = f", {other['num_ties']:,} of them ties" if other["num_ties"] else ""
        lines.append(
            f"  labels/{other['labels']}: same winner {share} on {counted(other['num_pairs'], 'pair')}{ties}, "
            f"Krippendorff's alpha {plain(other['krippendorff_alpha'])}"
        )
    return lines
