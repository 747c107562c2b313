"""Do 2,000 labels of simulated people teach what the reward itself teaches? And are agreement and calibration right?

    python docs/experiments/annotators.py [--protocol scores] [--out build/experiments/annotators] [--seeds 0 1 2 …]
    python docs/experiments/annotators.py [--protocol scores] --collect

Every annotator prefers a to b with probability σ((r(a) − r(b)) / temperature), r the reward `scenes`: Bradley and
Terry's model with a known temperature. For each seed there is one data set of the paper's four prompts, 256 images
each, and 2,000 different pairs of them, 500 a prompt, drawn without looking at the reward. Three policies are trained
on the same pairs with the settings of offline ppod in plan.py: `reward` on labels σ(Δr / 3) of the reward itself,
`people-1` and `people-3` on one drawn answer, a or b, a pair. The answers go through `ppod-pair import --format table`.
A further table, `panel-T`, has several answers a pair, for the agreement between people. What is done is kept.

Settings were fixed before the first run: 250 updates of 8 pairs, so each label is seen once; evaluation on 256 images a
prompt of the evaluation noise. The share of the reward's gain is the ratio of the mean gains.

The protocol `scores` came later, on seeds of its own: the policy is a mean over more updates, and further policies are
trained on 2,000 pairs that `ppod-pair rank` draws by the people's own scores, which `ppod-pair agreement --scores` fits
to the same 2,000 answers, and by the reward. All this was chosen on the seeds 7 and 8, which neither protocol reports.
The results are annotators*.json and annotators.png beside this file, and the tables of docs/experiments.md.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from collect import embed, number
from lab import PAPER_PROMPTS, QUERIES, UPDATE, judge, make_data, once
from numpy.typing import NDArray
from plan import OFFLINE
from scipy.stats import t

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import load_model
from ppod_data.labels.agreement import people_agreement, reward_agreement
from ppod_data.labels.matching import SampleIndex
from ppod_data.labels.stored import read_scores, read_votes
from ppod_data.support.noise import generator
from ppod_train.data.training_data import DataSource
from ppod_train.run.train import train_offline
from ppod_train.settings import TrainSettings

HERE = Path(__file__).parent
TEMPERATURES = (3.0, 1.0)
"""3 is the temperature of offline ppod's own soft labels; 1 are people who mostly agree."""
LABELS = 2000
UPDATES = 250
ANSWERED = ("reward", "people-3", "people-1")
RANKED_BY = ("reward-scores", "people-3-scores", "people-1-scores")
PEOPLE = 8
PANEL_PAIRS, PANEL_ANSWERS = 300, 4
EVAL_IMAGES = 256
RANKED = {"num-pairs-per-prompt": LABELS // len(PAPER_PROMPTS), "min-margin": 0.5}
"""How pairs are drawn by scores. Of people's the labels are their own probabilities."""
REDRAWN = 2000
"""How often the simulation is drawn again for the spread of what is measured."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is trained, and how often."""

    seeds: tuple[int, ...]
    arms: dict[str, str]
    """By name, and the arm of the reward whose gain each is a share of."""
    settings: dict[str, Any]
    """Where they are not those of offline ppod."""


PROTOCOLS = {
    "first": Protocol(seeds=(0, 1, 2, 3, 4, 5, 6), arms=dict.fromkeys(ANSWERED, "reward"), settings={}),
    "scores": Protocol(
        seeds=(10, 11, 12, 13, 14, 15),
        arms=dict.fromkeys(RANKED_BY, "reward-scores") | dict.fromkeys(ANSWERED, "reward"),
        settings={"ema_decay": 0.98},
    ),
}


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logistic function of x."""
    return 1 / (1 + np.exp(-x))


def draw_pairs(dataset: Dataset, count: int, seed: int, purpose: str) -> list[tuple[str, str]]:
    """Draw `count` different pairs of samples, as many of each prompt, each pair in a random order."""
    table = dataset.samples(["sample_id", "prompt_id"])
    prompts = np.array(table["prompt_id"].to_pylist())
    ids = table["sample_id"].to_pylist()
    drawn = []
    for prompt in dict.fromkeys(prompts):
        members = np.flatnonzero(prompts == prompt)
        first, second = np.triu_indices(len(members), 1)
        random = generator("annotators", purpose, seed, str(prompt))
        for pair in random.choice(len(first), count // len(dataset.spec.prompts), replace=False):
            a, b = random.permutation([first[pair], second[pair]])
            drawn.append((ids[members[a]], ids[members[b]]))
    return drawn


def import_table(root: Path, name: str, rows: Sequence[tuple[str, str, object, object]]) -> None:
    """Write a plain label table of (a, b, label, annotator) and import it as a user does."""
    path = root.parent / f"{name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("a", "b", "label", "annotator"))
        writer.writerows(rows)
    pair("import", root, path, "--format", "table", "--name", name)


def rank(root: Path, scores: str, name: str, seed: int, label_temperature: float) -> None:
    """Draw pairs by a score table."""
    options = {**RANKED, "label-temperature": label_temperature, "seed": seed}
    pair("rank", root, "--reward", scores, "--name", name, *(f"--{key}={options[key]}" for key in options))


def pair(*words: object) -> None:
    """`ppod-pair` in a process of its own."""
    subprocess.run([sys.executable, "-m", "ppod_cli.pair", *map(str, words)], check=True)


def probabilities(dataset: Dataset, pairs: Sequence[tuple[str, str]], temperature: float) -> Any:
    """Return the probability that a is preferred, for each pair."""
    table = dataset.scores("scenes")
    score = dict(zip(table["sample_id"].to_pylist(), table["score"].to_pylist(), strict=True))
    return sigmoid(np.array([score[a] - score[b] for a, b in pairs]) / temperature)


def prepare(out: Path, seed: int) -> Dataset:
    """Make the data set of a seed with the labels of the reward, of the people and of the panels."""
    root = out / f"data-seed-{seed}" / "data"
    dataset = make_data(root, PAPER_PROMPTS, images=QUERIES, seed=seed)
    if (root / "pairs" / "reward-scores.parquet").exists():
        return dataset
    pairs = draw_pairs(dataset, LABELS, seed, "pairs")
    panel = draw_pairs(dataset, PANEL_PAIRS, seed, "panel")
    soft = probabilities(dataset, pairs, OFFLINE.pairs["label_temperature"])
    import_table(root, "reward", [(a, b, repr(float(p)), "") for (a, b), p in zip(pairs, soft, strict=True)])
    for temperature in TEMPERATURES:
        random = generator("annotators", "answers", seed, temperature)
        rows = [
            (a, b, "a" if random.random() < p else "b", f"person {random.integers(PEOPLE)}")
            for (a, b), p in zip(pairs, probabilities(dataset, pairs, temperature), strict=True)
        ]
        import_table(root, f"people-{temperature:g}", rows)
        rows = [
            (a, b, "a" if random.random() < p else "b", f"person {who}")
            for (a, b), p in zip(panel, probabilities(dataset, panel, temperature), strict=True)
            for who in random.choice(PEOPLE, PANEL_ANSWERS, replace=False)
        ]
        import_table(root, f"panel-{temperature:g}", rows)
        people = f"people-{temperature:g}"
        pair("agreement", root, "--labels", people, "--scores", people)
        rank(root, people, f"{people}-scores", seed, 1.0)
    rank(root, "scenes", "reward-scores", seed, OFFLINE.pairs["label_temperature"])
    return dataset


def train_and_judge(
    dataset: Dataset, seed: int, arm: str | None, protocol: Protocol, folder: Path
) -> dict[str, Any]:
    """Return the metrics of the policy that an arm trains, or of the pretrained model without an arm."""
    policy = None
    if arm is not None:
        settings = TrainSettings(
            objective=OFFLINE.objective,
            **{
                **UPDATE,
                **OFFLINE.settings,
                **protocol.settings,
                "num_train_steps": UPDATES,
                "checkpoint_every": UPDATES,
                "seed": seed,
            },
        )
        source = DataSource(roots=[dataset.root], pairs=arm, scores="scenes")
        train_offline(source, folder / "run", settings, model=load_model("scenes"), reward=None)
        policy = folder / "run" / "policy"
    figures = judge(folder, policy, PAPER_PROMPTS, images=EVAL_IMAGES, seed=seed)
    evaluation = json.loads((folder / "eval" / "eval.json").read_text())
    by_prompt = {name: one["reward_mean"] for name, one in evaluation["prompts"].items()}
    return {"reward_mean": figures["reward_mean"], "correct": figures["correct"], "prompts": by_prompt}


def measured(dataset: Dataset, temperature: float) -> dict[str, Any]:
    """Return the measurements of `ppod-pair agreement` with the simulation's truth and its spread."""
    index = SampleIndex.read(dataset)
    scores = read_scores(dataset, "scenes", index)
    panel, names, _ = read_votes(dataset, f"panel-{temperature:g}", index, None)
    people = people_agreement(panel, names)
    answers, _, _ = read_votes(dataset, f"people-{temperature:g}", index, None)
    reward = reward_agreement(answers, scores, "scenes")
    margin = scores[answers.a] - scores[answers.b]
    p = sigmoid(margin / temperature)
    sure = np.abs(margin) > 0
    information = (
        float((p * (1 - p) * margin**2).sum()) / temperature**4
    )  # of the temperature, about the label's draw
    truth = panel_truth(panel, scores, temperature)
    assert reward.accuracy is not None
    return {
        "raw": {"measured": people.raw, **truth["raw"]},
        "krippendorff_alpha": {"measured": people.krippendorff_alpha, **truth["alpha"]},
        "accuracy": {
            "measured": reward.accuracy.value,
            "truth": float(np.maximum(p, 1 - p)[sure].mean()),
            "sd": float(np.sqrt((p * (1 - p))[sure].sum()) / sure.sum()),
        },
        "temperature": {"measured": reward.temperature, "truth": temperature, "sd": information**-0.5},
        "calibration": [[one.predicted, one.observed, one.count] for one in reward.calibration],
    }


def panel_truth(panel: Any, scores: NDArray[np.float64], temperature: float) -> dict[str, dict[str, float]]:
    """Raw agreement and alpha in expectation, in closed form, and their standard deviations by drawing again.

    With u pairs of n independent answers, p_i the probability of the first image: two answers to pair i agree with
    probability p² + (1 - p)². Alpha's expected disagreement is E[2 C (N - C)] / (N (N - 1)) with C = Σ Bernoulli(p_i),
    N = u n, and E[C (N - C)] = N μ - μ² - Σ n p (1 - p), μ = n Σ p_i.
    """
    low, high = np.minimum(panel.a, panel.b), np.maximum(panel.a, panel.b)
    pairs = np.unique(np.stack([low, high]), axis=1)
    p = sigmoid((scores[pairs[0]] - scores[pairs[1]]) / temperature)
    n, total = PANEL_ANSWERS, PANEL_ANSWERS * len(p)
    disagree = float((2 * p * (1 - p)).mean())
    mean = n * p.sum()
    by_chance = 2 * (total * mean - mean**2 - n * (p * (1 - p)).sum()) / (total * (total - 1))
    drawn = generator("annotators", "again", temperature).binomial(n, p, (REDRAWN, len(p)))
    raw = (2 * drawn * (n - drawn) / (n * (n - 1))).mean(1)
    first = drawn.sum(1)
    chance = 2 * first * (total - first) / (total * (total - 1))
    return {
        "raw": {"truth": 1 - disagree, "sd": float(raw.std())},
        "alpha": {"truth": float(1 - disagree / by_chance), "sd": float((1 - raw / chance).std())},
    }


def t_interval(values: Sequence[float]) -> list[float]:
    """Return the 95 % interval of the mean of independent runs by Student's t."""
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return [float(np.mean(values) - half), float(np.mean(values) + half)]


def fieller_interval(gains: Sequence[float], of_reward: Sequence[float]) -> list[float] | None:
    """Return the 95 % interval of E[gain] / E[gain of the reward] by Fieller's theorem, for paired runs.

    The interval holds the ratios ρ at which the mean of gain − ρ·(gain of the reward) is within Student's t of 0. None
    if the reward's own gain does not differ from 0.
    """
    count = len(gains)
    spread = t.ppf(0.975, count - 1) ** 2 * np.cov(gains, of_reward) / count
    x, y = np.mean(gains), np.mean(of_reward)
    a, b, c = y * y - spread[1, 1], x * y - spread[0, 1], x * x - spread[0, 0]
    if a <= 0 or b * b < a * c:
        return None
    root = np.sqrt(b * b - a * c)
    return [float((b - root) / a), float((b + root) / a)]


def collect(out: Path, arms: Mapping[str, str], seeds: Sequence[int]) -> dict[str, Any]:
    """Return the gains of the arms over the seeds with runs of the arm and of its reward."""
    runs: dict[str, Any] = {}
    for seed in seeds:
        paths = {name: out / f"{name}-seed-{seed}" / "result.json" for name in ("pretrained", *arms)}
        if paths["pretrained"].exists():
            runs[str(seed)] = {
                name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()
            }
    figures: dict[str, Any] = {"runs": runs, "arms": {}}
    for arm, reward in arms.items():
        of_arm = {seed: run for seed, run in runs.items() if arm in run and reward in run}
        gains, of_reward = (
            [run[name]["reward_mean"] - run["pretrained"]["reward_mean"] for run in of_arm.values()]
            for name in (arm, reward)
        )
        ratios = [gain / whole for gain, whole in zip(gains, of_reward, strict=True)]
        figures["arms"][arm] = {
            "gain": float(np.mean(gains)),
            "gain_interval": t_interval(gains),
            "ratio": float(np.mean(gains) / np.mean(of_reward)),
            "ratio_interval": fieller_interval(gains, of_reward),
            "ratios": dict(zip(of_arm, ratios, strict=True)),
            "mean_of_ratios": float(np.mean(ratios)),
            "mean_of_ratios_interval": t_interval(ratios),
            "correct": float(np.mean([run[arm]["correct"] for run in of_arm.values()])),
        }
    return figures


def agreement(out: Path, seeds: Sequence[str]) -> dict[str, Any]:
    """Return measured and true agreement of people, by temperature and seed."""
    roots = {seed: out / f"data-seed-{seed}" / "data" for seed in seeds}
    return {
        f"{temperature:g}": {seed: measured(Dataset.open(root), temperature) for seed, root in roots.items()}
        for temperature in TEMPERATURES
    }


def gain_table(figures: dict[str, Any]) -> str:
    """Markdown: the gain of each arm, and its ratio to that of the reward, by seed."""
    seeds = list(figures["runs"])
    lines = [f"| | gain | share of the reward's gain | {' | '.join(f'seed {s}' for s in seeds)} | correct |"]
    lines.append("|---" * (len(seeds) + 4) + "|")
    for arm, item in figures["arms"].items():
        low, high = item["gain_interval"]
        share = f"{item['ratio']:.0%} ({' … '.join(f'{end:.0%}' for end in item['ratio_interval'] or [])})"
        cells = [f"{item['ratios'][seed]:.0%}" if seed in item["ratios"] else "–" for seed in seeds]
        gain = f"{number(item['gain'])} ({number(low)} … {number(high)})"
        if arm.startswith("reward"):
            share = "100%"
            cells = [
                number(run[arm]["reward_mean"] - run["pretrained"]["reward_mean"]) if arm in run else "–"
                for run in figures["runs"].values()
            ]
        lines.append(f"| {arm} | {gain} | {share} | {' | '.join(cells)} | {item['correct']:.0%} |")
    return "\n".join(lines) + "\n"


def agreement_table(figures: dict[str, Any]) -> str:
    """Markdown: measured and true, with the distance in standard deviations, by temperature and seed."""
    names = {
        "raw": "raw agreement",
        "krippendorff_alpha": "Krippendorff's alpha",
        "accuracy": "the reward's accuracy",
        "temperature": "temperature",
    }
    seeds = list(figures["runs"])
    lines = [f"| temperature | | {' | '.join(f'seed {s}' for s in seeds)} |"]
    lines.append("|---" * (len(seeds) + 2) + "|")
    for temperature, by_seed in figures["agreement"].items():
        for key, name in names.items():
            cells = [
                f"{one['measured']:.3f}, {one['truth']:.3f} ({number((one['measured'] - one['truth']) / one['sd'])})"
                for one in (by_seed[seed][key] for seed in seeds)
            ]
            lines.append(f"| {temperature} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(figures: dict[str, Any]) -> None:
    """Observed against predicted preference, all seeds, with Wilson's intervals' width as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    for axes, (temperature, by_seed) in zip(
        figure.subplots(1, 2, sharex=True, sharey=True), figures["agreement"].items(), strict=True
    ):
        axes.plot([0.5, 1], [0.5, 1], color="0.7", linewidth=1)
        for seed, one in by_seed.items():
            predicted, observed, count = np.array(one["calibration"]).T
            bars = 1.96 * np.sqrt(predicted * (1 - predicted) / count)
            axes.errorbar(
                predicted, observed, bars, fmt="o", markersize=3, linewidth=0.7, label=f"seed {seed}"
            )
        axes.set(title=f"temperature {temperature}", xlabel="σ(margin / fitted temperature)")
    figure.axes[0].set_ylabel("share that chose the higher reward")
    figure.axes[0].legend(fontsize="x-small")
    figure.savefig(HERE / "annotators.png", dpi=110)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="first")
    parser.add_argument("--out", type=Path, default=Path("build/experiments/annotators"))
    parser.add_argument("--seeds", nargs="*", type=int, help="those of the protocol unless given")
    parser.add_argument("--arms", nargs="*", help="likewise")
    parser.add_argument("--collect", action="store_true", help="only make figures of what is finished")
    arguments = parser.parse_args()
    protocol = PROTOCOLS[arguments.protocol]
    if not arguments.collect:
        for seed in arguments.seeds or protocol.seeds:
            dataset = prepare(arguments.out, seed)
            for arm in (None, *(arguments.arms or protocol.arms)):
                folder = arguments.out / f"{arm or 'pretrained'}-seed-{seed}"
                record = once(folder, partial(train_and_judge, dataset, seed, arm, protocol))
                if record is not None:
                    print(
                        folder.name, round(record["reward_mean"], 3), round(record["correct"], 3), flush=True
                    )
        return
    figures = collect(arguments.out, protocol.arms, protocol.seeds)
    name = "annotators"
    if arguments.protocol == "first":
        figures["agreement"] = agreement(arguments.out, list(figures["runs"]))
        plot(figures)
        embed("annotators-agreement", agreement_table(figures))
    else:
        name = f"{name}-{arguments.protocol}"
    (HERE / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
    embed(f"{name}-gain", gain_table(figures))


if __name__ == "__main__":
    main()
