"""README.md of a data set: its content, for people and for `datasets.load_dataset(folder, name)`.

The card is a pure function of the folder's tables and manifest. Its configurations list Parquet tables only,
because the `datasets` library uses one builder for all of them. It reads the tars with its "webdataset"
builder.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ppod_data.dataset.dataset import Dataset
from ppod_data.format.manifest import UNKNOWN_LICENSE
from ppod_data.format.prompts import visible
from ppod_data.format.spec import GenerationSpec
from ppod_data.inspect.croissant import CROISSANT, croissant_text
from ppod_data.inspect.describe import settings
from ppod_data.inspect.markdown import code, front_matter, plain
from ppod_data.inspect.overview import ScoreColumn, histogram, num_flagged, read_scores, sparkline
from ppod_data.storage.files import DataPath, atomic_update, data_path
from ppod_data.support.formatting import counted, spread

_SHOWN_PROMPTS = 10
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def write_card(root: DataPath) -> None:
    """Write README.md and croissant.json from the data set's current content, unless they are up to date."""
    root = data_path(root)
    dataset = Dataset.open(root)
    atomic_update(root / CROISSANT, croissant_text(dataset).encode())
    atomic_update(root / "README.md", card_text(dataset).encode())


def card_text(dataset: Dataset) -> str:
    """Return the card: YAML for the Hub and for `datasets`, then Markdown. The same folder gives the same text."""
    num_samples = dataset.num_samples
    scores = {name: read_scores(dataset, name) for name in dataset.score_names()}
    sections = [
        _front_matter(dataset, num_samples),
        "# Denoising trajectories with scores and preferences",
        _summary(dataset.spec, num_samples, dataset.num_excluded),
        _safety(dataset, num_samples),
        "## Tables\n\n" + "\n".join(_tables(dataset, num_samples, scores)),
        _histograms(scores),
        _reading(dataset, num_samples),
        "## How it was made\n\n" + "\n".join(_settings_rows(dataset)),
        _prompts(dataset.spec.prompts),
        _use(dataset),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(dataset: Dataset, num_samples: int) -> str:
    """Return the YAML header."""
    from huggingface_hub import DatasetCardData

    files = {"samples": "samples/*.parquet"} if num_samples else {}
    files |= {f"scores-{name}": f"scores/{name}/*.parquet" for name in dataset.score_names()}
    files |= {f"labels-{name}": f"labels/{name}.parquet" for name in dataset.label_names()}
    files |= {f"pairs-{name}": f"pairs/{name}.parquet" for name in dataset.pair_names()}
    configs: list[dict[str, Any]] = [
        {"config_name": name, "data_files": path, **({"default": True} if name == "samples" else {})}
        for name, path in files.items()
    ]
    data = DatasetCardData(
        license=dataset.manifest["license"],
        task_categories=["text-to-image"],
        tags=["diffusion", "preference-optimization", "denoising-trajectories", "ppod"],
        size_categories=[next((name for limit, name in _SIZES if num_samples < limit), "n>10M")],
        configs=configs or None,
    )
    return front_matter(data)


def _summary(spec: GenerationSpec, num_samples: int, num_excluded: int) -> str:
    missing = spec.num_samples - num_samples - num_excluded
    each = f"at most {spec.num_images_per_prompt:,}" if spec.is_forward else f"{spec.num_images_per_prompt:,}"
    text = (
        f"{counted(num_samples, 'image')} of {counted(len(spec.prompts), 'prompt')}, {each} a prompt, "
        f"each with the denoising chain of {counted(spec.num_inference_steps, 'step')} and their log-probabilities."
    )
    if spec.is_forward:
        text += (
            " The images were given, and are stored as they came; each chain is one draw of the forward process from "
            "the encoded image, and the log-probabilities are those of the model below, which made neither."
        )
    return text + (f" Still to be made: {counted(missing, 'image')}." if missing else "")


def _safety(dataset: Dataset, num_samples: int) -> str:
    flagged = num_flagged(dataset)
    if flagged is None:
        return ""
    return (
        f"**Content.** The model's safety checker flagged {flagged:,} of {counted(num_samples, 'image')} "
        "(column `flagged` of `samples`); all images are as they were made. It errs in both directions: look before "
        "you show them."
    )


def _tables(dataset: Dataset, num_samples: int, scores: Mapping[str, ScoreColumn]) -> list[str]:
    lines = ["| table | rows | what |", "|---|---:|---|"]
    lines.append(
        f"| `samples` | {num_samples:,} | prompt, image, log-probabilities, where the trajectory is |"
    )
    for name, column in scores.items():
        description = "; ".join(
            sorted(f"scores by {scorer} ({revision})" for scorer, revision in column.made_by)
        )
        description += f", {column.failed:,} failed" if column.failed else ""
        lines.append(f"| `scores-{name}` | {column.rows:,} | {plain(description)} |")
    for name in dataset.label_names():
        table = dataset.labels(name, ["source", "label", "license"])
        sources = ", ".join(sorted(pc.unique(table["source"]).to_pylist()))
        licences = ", ".join(sorted(pc.unique(table["license"]).to_pylist()))
        ties = pc.sum(pc.equal(table["label"], 0.5)).as_py() or 0
        description = f"people's labels from {sources} (licence {licences}), {ties:,} ties"
        lines.append(f"| `labels-{name}` | {table.num_rows:,} | {plain(description)} |")
    for name in dataset.pair_names():
        counts: Counter[str] = Counter()
        for table in dataset.iter_pairs(name, ["source"]):
            counts.update(
                {row["values"]: row["counts"] for row in pc.value_counts(table["source"]).to_pylist()}
            )
        description = ", ".join(sorted(f"{count:,} from {source}" for source, count in counts.items()))
        lines.append(f"| `pairs-{name}` | {counts.total():,} | pairs: {plain(description or 'none')} |")
    return lines


def _histograms(scores: Mapping[str, ScoreColumn]) -> str:
    """Return the histograms as text, so that a terminal, the Hub and a diff show the same."""
    blocks = []
    for name, column in scores.items():
        finite = column.values[np.isfinite(column.values)]
        if len(finite):
            shape = histogram(finite)
            edges = shape["edges"]
            format_number = spread(edges[0], edges[-1]).number
            quartiles = ", ".join(
                format_number(float(value)) for value in np.quantile(finite, [0.25, 0.5, 0.75])
            )
            blocks.append(
                f"{name}: mean {format_number(float(finite.mean()))}, quartiles {quartiles}\n"
                f"{format_number(edges[0]):>9} |{sparkline(shape['counts'])}| {format_number(edges[-1])}"
            )
    return "## Scores\n\n```text\n" + "\n\n".join(blocks) + "\n```" if blocks else ""


def _use(dataset: Dataset) -> str:
    license = dataset.manifest["license"]
    licence_text = f"Licence: {code(license)}."
    if license == UNKNOWN_LICENSE:
        licence_text = "No licence was given: contact its authors."
    origin = (
        "A model generated all images; none is a photograph. The model's own\nlicence may bind its outputs."
    )
    if dataset.spec.is_forward:
        origin = "The images are other people's work, and may have\nlicences of their own."
    return f"""## Using and citing it

{licence_text} {origin} Cite the data set by its spec fingerprint, which covers every input of its bytes:

    ppod data set {dataset.spec.fingerprint}

`croissant.json` describes the tables for programs (Croissant 1.1); ppod trains on the folder as it is:
`ppod-train offline DATASET --pairs NAME --out RUN`."""


def _reading(dataset: Dataset, num_samples: int) -> str:
    if not num_samples:
        return ""
    return f"""## Reading it

```python
from datasets import load_dataset

samples = load_dataset("DATASET", "samples", split="train")  # the folder, or its name on the Hub
trajectories = load_dataset("webdataset", data_files="DATASET/trajectories/*.tar", split="train")
```

```python
from ppod_data import Dataset

dataset = Dataset.open("DATASET")
chain = dataset.trajectory("{_first_sample(dataset)}")
before, after = chain.step(chain.step_index[0])  # the latents [C, H, W] around one denoising step
```

Every trajectory's sha256 is in `samples`; every page of a table carries a checksum."""


def _first_sample(dataset: Dataset) -> str:
    tables = dataset.iter_samples(["sample_id"])
    first: str = next(table for table in tables if table.num_rows)["sample_id"][0].as_py()
    return first


def _settings_rows(dataset: Dataset) -> list[str]:
    rows = [f"| {name} | {code(value)} |" for name, value in settings(dataset).items()]
    return ["| option | value |", "|---|---|", *rows]


def _prompts(prompts: Sequence[str]) -> str:
    examples = "\n".join(f"    {visible(prompt)}" for prompt in prompts[:_SHOWN_PROMPTS])
    more = len(prompts) - _SHOWN_PROMPTS
    return f"## Prompts\n\n{examples}" + (f"\n\nand {more:,} more, in `ppod.json`." if more > 0 else "")
