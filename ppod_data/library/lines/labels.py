"""Lines on labels: imported, combined, answered on the page, and given by a judge."""

from pathlib import Path

from ppod_data.annotate.pair_judge import JudgeSummary
from ppod_data.annotate.session import Count
from ppod_data.labels.combine import CombineSummary
from ppod_data.labels.importing import ImportSummary
from ppod_data.support.formatting import counted


def imported_lines(dataset: str, name: str, done: ImportSummary) -> list[str]:
    """Return lines on imported labels and their pairs, and on what was left out."""
    lines = [
        f"{dataset}/labels/{name}.parquet: {counted(done.num_preferences + done.num_ties, 'label')} from "
        f"{counted(done.num_records, 'record')}, {done.num_ties:,} of them ties"
    ]
    skipped = [f"{count:,} {reason}" for reason, count in done.skipped.items()]
    skipped += [f"{done.num_ratings_alone:,} rated alone in their group"] if done.num_ratings_alone else []
    if skipped:
        lines.append(f"left out: {', '.join(skipped)}")
    if done.num_rejected:
        lines.append(
            f"{dataset}/labels/{name}.rejects.jsonl: {done.num_rejected:,} rejected, with the reason"
        )
    if not done.num_pairs:
        return [
            *lines,
            "no pairs: there are ties and even votes only; --keep-ties takes them as labels of 0.5",
        ]
    pairs = f"{dataset}/pairs/{name}.parquet: {counted(done.num_pairs, 'pair')} on {done.dimension}"
    notes = {"with votes for either image": done.num_contradictory, "with even votes": done.num_undecided}
    noted = [f"{counted(number, 'pair')} {what}" for what, number in notes.items() if number]
    return [*lines, pairs + (f"; {', '.join(noted)}" if noted else "")]


def combined_lines(dataset: str, done: CombineSummary) -> list[str]:
    """Return lines on combined tables of pairs, and on what was left out."""
    lines = [
        f"{dataset}/pairs/{name}.parquet: {counted(count, 'pair')}" for name, count in done.tables.items()
    ]
    left_out = {
        "rows merged with another of the same images": done.num_merged,
        "of one image twice": done.num_same_images,
        "without a preference": done.num_undecided,
        "contradictory": done.num_dropped,
    }
    reasons = [f"{number:,} {what}" for what, number in left_out.items() if number]
    if reasons:
        lines.append(f"left out: {', '.join(reasons)}")
    if done.num_contradictory and not done.num_dropped:
        lines.append(f"judged either way: {counted(done.num_contradictory, 'pair')}, with means as labels")
    return lines


def answered_lines(folder: Path, count: Count) -> list[str]:
    """Return lines on the answers of a labelling session."""
    line = f"{folder}: {counted(count.num_answers, 'answer')} by {counted(count.num_annotators, 'person', 'people')}"
    line += f", {count.num_ties:,} of them ties" if count.num_ties else ""
    line += f"; {count.num_skipped:,} skipped" if count.num_skipped else ""
    lines = [line]
    if count.num_repeated:
        lines.append(
            f"asked again: {count.num_repeated:,}, answered alike {count.num_repeated_alike / count.num_repeated:.0%}"
        )
    return lines


def judged_lines(done: JudgeSummary) -> list[str]:
    """Return lines on pairs that a vision language model judged."""
    line = f"{done.file}: {counted(done.num_judged, 'pair')} judged now"
    line += f", {done.num_skipped:,} already there" if done.num_skipped else ""
    line += f", {done.num_unreadable:,} unreadable ({done.first_unreadable})" if done.num_unreadable else ""
    lines = [line]
    if done.first_preferred is not None:
        lines.append(
            f"  image shown first preferred: {done.first_preferred:.3f}; {done.num_reversed:,} of "
            f"{counted(done.num_answers, 'pair')} change with the order"
        )
    lines.append(f"  {done.usage}")
    return lines
