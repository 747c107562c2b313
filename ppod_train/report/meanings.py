"""Meanings of the report's numbers, in a sentence each; docs/metrics.md has them in full."""

from markupsafe import Markup

from ppod_data.html.page import join

MEANINGS = {
    "Mean reward": "The mean of the reward model's scores over all images, on noise that no data set was made from.",
    "Gain": "The mean difference of rewards after and before, of the same prompt and seed. It may be chance if its "
    "interval holds 0.",
    "Win rate": "The share of seeds whose image scores higher after than before; ties count half.",
    "Fully correct": "The share of images of which the scorer finds every fact of the prompt right. Such an image may "
    "still be ugly.",
    "Check reward": "The score of a second reward that nothing was trained on. A gain that it does not share may be "
    "exploitation.",
    "Diversity": "The mean distance between images of a prompt. A fall means that the images become alike.",
    "Queries": "Images that the reward scored for the run, of data and validation.",
    "Loss": "The preference-prediction loss of a step's pairs. A lower loss does not mean better images.",
    "KL estimate": "A sample mean of log-ratios, in nats. The divergence is never negative; its estimate can be.",
    "Band": "The clip on log-ratios. Steps outside it on the right side have learned enough and have no gradient.",
    "Drift": "The difference between log-probabilities that the trainer computes and those that were recorded.",
}


def meanings() -> Markup:
    """Render the meanings as a list of terms."""
    rows = join(Markup("<dt>{}</dt><dd>{}</dd>").format(name, text) for name, text in MEANINGS.items())
    return Markup(
        '<dl class="meanings">{}</dl><p class="note">More: docs/metrics.md, "What the numbers mean".</p>'
    ).format(rows)
