"""Lines on samples, scores, pairs, log-probabilities and copies of a data set."""

from collections.abc import Sequence

from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.cost import GenerationPlan
from ppod_data.generation.generate import GenerateSummary
from ppod_data.generation.log_probs import LogProbsSummary
from ppod_data.library.plans import many_files_note
from ppod_data.pairs.rank import PairSummary
from ppod_data.publish.transfer import TransferSummary
from ppod_data.scoring.score import ScoreSummary
from ppod_data.support.formatting import amount, clock, counted, precision


def made_lines(dataset: str, made: GenerateSummary) -> list[str]:
    """Return lines on images that were sampled."""
    existing = made.num_samples - made.num_made
    there = f", {existing:,} already there" if existing else ""
    first = f"{dataset}: {counted(made.num_made, 'image')} made in {clock(made.seconds)}{there}"
    return [first, *_deterministic_lines(made.deterministic_steps)]


def given_images_lines(dataset: str, num_prompts: int, made: GenerateSummary) -> list[str]:
    """Return lines on a data set that was made of given images."""
    existing = made.num_samples - made.num_made
    there = f"; {existing:,} already there" if existing else ""
    first = f"{dataset}: {counted(made.num_samples, 'image')} of {counted(num_prompts, 'prompt')}"
    first += ", each with a chain drawn onto it"
    return [first + there, *_deterministic_lines(made.deterministic_steps)]


def generation_plan_lines(plan: GenerationPlan) -> list[str]:
    """Return lines on network calls, disk and memory of generating a data set."""
    return [
        f"  noise          in {len(plan.noisy_steps)} of {counted(plan.num_inference_steps, 'step')}",
        f"  network calls  {plan.network_calls:,}",
        f"  disk           {amount(plan.latent_bytes)} of trajectories, at most {amount(plan.image_bytes)} of images",
        f"  memory         {amount(plan.peak_bytes)}: {amount(plan.pipeline_bytes)} of weights, "
        f"{amount(plan.sample_bytes)} to sample a batch, {amount(plan.decode_bytes)} to decode it",
        f"  host memory    at most {amount(plan.embedding_bytes)} of text embeddings",
    ]


def dry_run_lines(spec: GenerationSpec, plan: GenerationPlan, seconds: float | None) -> list[str]:
    """Return lines on what generating a data set would take; `seconds` is None without the model's weights."""
    time = (
        "unknown: the weights are not here" if seconds is None else f"about {clock(seconds)} in one process"
    )
    return [
        f"{counted(plan.num_samples, 'image')} in {counted(plan.num_shards, 'shard')}; nothing was written",
        *generation_plan_lines(plan),
        f"  time           {time}",
        *many_files_note(spec),
    ]


def scored_lines(dataset: str, done: Sequence[ScoreSummary], missing_shards: int = 0) -> list[str]:
    """Return lines on score tables: what was scored now, and the scores of the whole table."""
    lines = []
    for table in done:
        line = f"{dataset}/scores/{table.name}: {counted(table.num_scored, 'image')} scored now"
        line += f", {table.num_skipped:,} already there" if table.num_skipped else ""
        line += f", {table.num_failed:,} failed ({table.first_failure})" if table.num_failed else ""
        lines.append(line)
        if table.mean is not None:
            number = precision([table.mean, table.low, table.high]).number
            mean, low, high = map(number, (table.mean, table.low, table.high))
            lines.append(f"  {counted(table.num_scores, 'score')}: mean {mean}, from {low} to {high}")
        if table.usage is not None:
            lines.append(f"  {table.usage}")
    if missing_shards:
        lines.append(f"still to make: {counted(missing_shards, 'shard')}; score again afterwards")
    return lines


def paired_lines(
    dataset: str, name: str, done: PairSummary, missing_shards: int = 0, *, soft: bool = False
) -> list[str]:
    """Return lines on a table of pairs: what is in it, what was left out, and pairs close to a tie.

    Args:
        dataset: Folder or URL of the data set.
        name: Name of the table.
        done: The result of `rank_pairs`.
        missing_shards: Shards that are not made yet.
        soft: Whether the labels are probabilities, which say themselves that a pair is close.
    """
    left_out = {
        "ties": done.num_ties,
        "pairs with too small a margin": done.num_below_margin,
        "images without a score": done.num_unscored,
        "prompts without a pair": done.num_prompts_without_pairs,
    }
    reasons = [f"{number:,} {what}" for what, number in left_out.items() if number]
    lines = [
        f"{dataset}/pairs/{name}.parquet: {counted(done.num_pairs, 'pair')} of {counted(done.num_prompts, 'prompt')}, "
        f"median margin {done.median_margin:.4g}"
    ]
    if reasons:
        lines.append(f"left out: {', '.join(reasons)}")
    if done.num_near_ties and not soft:
        margin = f"{done.near_tie:g}"
        lines.append(
            f"{done.num_near_ties:,} of {counted(done.num_pairs, 'pair')} differ by less than {margin}, "
            f"a tenth of the scores' spread; --min-margin {margin} --name {name}-{margin} leaves them out"
        )
    if missing_shards:
        lines.append(f"still to make: {counted(missing_shards, 'shard')}; the images of these are in no pair")
    return lines


def log_prob_lines(dataset: str, done: LogProbsSummary) -> list[str]:
    """Return lines on log-probabilities that were computed again."""
    line = f"{dataset}/log_probs/{done.name}: {counted(done.num_computed, 'trajectory', 'trajectories')} computed now"
    line += f", {done.num_skipped:,} already there" if done.num_skipped else ""
    if done.max_difference is None:
        return [line]
    return [line, f"largest difference from the log-probabilities in the samples: {done.max_difference:.3g}"]


def copied_line(target: str, done: TransferSummary) -> str:
    """Return a line on files that were copied from or to a store."""
    there = done.num_files - done.num_copied
    return f"{target}: {counted(done.num_copied, 'file')} copied ({amount(done.nbytes)})" + (
        f", {there:,} already there" if there else ""
    )


def _deterministic_lines(steps: Sequence[int]) -> list[str]:
    """Return a line on steps without noise; none if every step has noise."""
    if not steps:
        return []
    named = ", ".join(map(str, steps))
    return [f"steps without noise, which have no log-probability and are left out of the loss: {named}"]
