"""README.md of a data set: what is in the folder, for people, and for `datasets.load_dataset(folder, name)`.

A pure function of the folder's tables and manifest. The configurations list Parquet tables only: the
`datasets` library takes one builder for all of them, and reads the tars with its "webdataset" builder.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc

from ppod_data.dataset import Dataset
from ppod_data.files import atomic_write
from ppod_data.shards import committed_shards
from ppod_data.spec import GenerationSpec

_SHOWN_PROMPTS = 10
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def write_card(root: Path) -> None:
    """Write README.md anew from what the data set folder holds now."""
    atomic_write(root / "README.md", card_text(Dataset.open(root)).encode())


def card_text(dataset: Dataset) -> str:
    """The card: YAML for the Hub and for `datasets`, then Markdown. The same text for the same folder."""
    shards = committed_shards(dataset.root)
    num_samples = sum(len(dataset.spec.shard_range(shard)) for shard in shards)
    sections = [
        _front_matter(dataset, num_samples),
        "# Denoising trajectories with scores and preferences",
        _summary(dataset.spec, num_samples),
        "## Tables\n\n" + "\n".join(_tables(dataset, num_samples)),
        _reading(dataset, num_samples),
        "## How it was made\n\n" + "\n".join(_settings(dataset)),
        _prompts(dataset.spec.prompts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(dataset: Dataset, num_samples: int) -> str:
    """Strings are quoted as JSON, which YAML reads as the same strings."""
    configs = [("samples", "samples/*.parquet")] if num_samples else []
    configs += [(f"scores-{name}", f"scores/{name}/*.parquet") for name in dataset.score_names()]
    configs += [(f"pairs-{name}", f"pairs/{name}.parquet") for name in dataset.pair_names()]
    lines = [
        "---",
        f"license: {json.dumps(dataset.manifest['license'])}",
        "task_categories:",
        "- text-to-image",
        "tags:",
        "- diffusion",
        "- preference-optimization",
        "- denoising-trajectories",
        "- ppod",
        "size_categories:",
        f"- {next((name for limit, name in _SIZES if num_samples < limit), 'n>10M')}",
    ]
    lines += ["configs:"] if configs else []
    for name, files in configs:
        lines += [f"- config_name: {json.dumps(name)}", f"  data_files: {json.dumps(files)}"]
        lines += ["  default: true"] if name == "samples" else []
    return "\n".join([*lines, "---"])


def _summary(spec: GenerationSpec, num_samples: int) -> str:
    missing = spec.num_samples - num_samples
    text = (
        f"{num_samples:,} images of {len(spec.prompts):,} prompts, {spec.num_images_per_prompt:,} a prompt, "
        f"each with the denoising chain of {spec.num_inference_steps} steps and their log-probabilities."
    )
    return text + (f" {missing:,} images are still to be made." if missing else "")


def _tables(dataset: Dataset, num_samples: int) -> list[str]:
    lines = ["| table | rows | what |", "|---|---:|---|"]
    lines.append(
        f"| `samples` | {num_samples:,} | prompt, image, log-probabilities, where the trajectory is |"
    )
    for name in dataset.score_names():
        table = dataset.scores(name)
        scorers = table.group_by(["scorer", "revision"]).aggregate([]).to_pylist()
        what = "; ".join(sorted(f"scores by {row['scorer']} ({row['revision']})" for row in scorers))
        failed = table["score"].null_count
        what += f", {failed:,} failed" if failed else ""
        lines.append(f"| `scores-{name}` | {table.num_rows:,} | {_cell(what)} |")
    for name in dataset.pair_names():
        table = dataset.pairs(name)
        counts = pc.value_counts(table["source"]).to_pylist()
        what = ", ".join(sorted(f"{row['counts']:,} from {row['values']}" for row in counts))
        lines.append(f"| `pairs-{name}` | {table.num_rows:,} | pairs: {_cell(what or 'none')} |")
    return lines


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
    first: str = next(dataset.iter_samples(["sample_id"]))["sample_id"][0].as_py()
    return first


def _settings(dataset: Dataset) -> list[str]:
    spec = dataset.spec
    chain = "flow matching" if spec.is_flow_matching else "DDIM"
    values = {
        "model": spec.model,
        "revision": spec.revision,
        "adapter": spec.adapter,
        "policy fingerprint": spec.policy_fingerprint,
        "scheduler": f"{chain}, {spec.num_inference_steps} steps, ddim_eta {spec.ddim_eta}",
        "guidance scale": f"{spec.guidance_scale} ({spec.guidance_mode})",
        "negative prompt": spec.negative_prompt,
        "image size": f"{spec.width} x {spec.height} pixels",
        "latents": f"{list(spec.latent_shape)} {spec.latent_dtype}, computed in {spec.compute_dtype}",
        "stored steps": spec.store_steps,
        "seed": f"{spec.seed} (stage {spec.stage}, {spec.purpose}, initial noise {spec.initial_noise})",
        "shards": f"{spec.num_shards} of {spec.images_per_shard} images, batches of {spec.batch_size}",
        "spec fingerprint": spec.fingerprint,
        "licence": dataset.manifest["license"],
    }
    return ["| option | value |", "|---|---|"] + [
        f"| {name} | `{_cell(str(value))}` |" for name, value in values.items() if value not in (None, "")
    ]


def _cell(text: str) -> str:
    """Text that cannot end its cell of a Markdown table or its code span."""
    return text.replace("|", "\\|").replace("`", "'").replace("\n", " ")


def _prompts(prompts: Sequence[str]) -> str:
    shown = "\n".join(f"    {prompt}" for prompt in prompts[:_SHOWN_PROMPTS])
    more = len(prompts) - _SHOWN_PROMPTS
    return f"## Prompts\n\n{shown}" + (f"\n\nand {more:,} more, in `ppod.json`." if more > 0 else "")
