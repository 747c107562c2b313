"""Export formats; each writer writes all pairs to a file or an empty folder."""

import csv
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.format.images import image_name
from ppod_data.format.shards import committed_shards
from ppod_data.format.tables import SAMPLES, part_name, read_table
from ppod_data.labels.answers import TIE
from ppod_data.labels.files.spreadsheet_text import guarded
from ppod_data.storage.files import below

_OPEN_SHARDS = 4
ROWS = 64
"""Number of pairs that are held in memory at a time."""
_TAR_BYTES = 256 << 20
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One pair with the fields that the formats need."""

    pair_id: str
    prompt_id: str
    prompt: str
    chosen_id: str
    rejected_id: str
    label: float
    votes: int | None
    source: str

    @property
    def swapped(self) -> bool:
        """Return True if the chosen image is shown second: pseudo-random, and the same every time."""
        return int(self.pair_id[-1], 16) % 2 == 1


class Images:
    """Image files of samples, with a few shards in memory at a time."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._place: dict[str, tuple[int, int]] = {}
        self._open: OrderedDict[int, Any] = OrderedDict()
        for shard in committed_shards(dataset.root):
            ids = self._read(shard, ["sample_id"])["sample_id"].to_pylist()
            self._place |= {name: (shard, row) for row, name in enumerate(ids)}

    def _read(self, shard: int, columns: list[str]) -> Any:
        return read_table(self._dataset.root / "samples" / part_name(shard), SAMPLES, columns)

    def check(self, sample_id: str) -> None:
        """Raise ConfigError if a sample is missing."""
        if sample_id not in self._place:
            raise ConfigError(f"sample {sample_id} is missing here: copy its shard, or run ppod-gen again")

    def __call__(self, sample_id: str) -> bytes:
        """Return the bytes of a sample's image file."""
        shard, row = self._place[sample_id]
        if shard not in self._open:
            self._open[shard] = self._read(shard, ["image"])["image"]
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        data: bytes = self._open[shard][row].as_py()["bytes"]
        return data


def _pick_a_pic(dataset: Dataset, pairs: Iterator[Pair], images: Images, out: Path) -> None:
    """Write the columns of Pick-a-Pic v2.

    Its readers support only wins and ties, and treat any label_0 except 0 as a win.
    """
    text, number = pa.string(), pa.int64()
    schema = pa.schema(
        [
            *(("are_different", pa.bool_()), ("best_image_uid", text), ("caption", text)),
            *(("created_at", pa.timestamp("ns")), ("has_label", pa.bool_())),
            *(("image_0_uid", text), ("image_0_url", text), ("image_1_uid", text), ("image_1_url", text)),
            *(("jpg_0", pa.binary()), ("jpg_1", pa.binary())),
            *(("label_0", pa.float64()), ("label_1", pa.float64()), ("model_0", text), ("model_1", text)),
            *(("ranking_id", number), ("user_id", number), ("num_example_per_prompt", number)),
            ("__index_level_0__", number),
        ]
    )

    model = "" if dataset.spec.is_forward else dataset.spec.model

    def row(index: int, pair: Pair) -> dict[str, Any]:
        sides = [pair.chosen_id, pair.rejected_id]
        label = TIE if pair.label == TIE else 1.0
        first = 1 - label if pair.swapped else label
        zero, one = reversed(sides) if pair.swapped else sides
        return {
            "are_different": True,
            "best_image_uid": "tie" if label == TIE else pair.chosen_id,
            "caption": pair.prompt,
            "created_at": None,
            "has_label": True,
            **{"image_0_uid": zero, "image_1_uid": one, "image_0_url": "", "image_1_url": ""},
            **{"jpg_0": images(zero), "jpg_1": images(one), "label_0": first, "label_1": 1 - first},
            **{"model_0": model, "model_1": model},
            **{"ranking_id": index, "user_id": 0, "num_example_per_prompt": 1, "__index_level_0__": index},
        }

    _write_parquet(out, schema, (row(index, pair) for index, pair in enumerate(pairs)))


def _trl(dataset: Dataset, pairs: Iterator[Pair], images: Images, out: Path) -> None:
    """Write TRL's preference form: prompt, chosen, rejected, with images as answers."""
    schema = pa.schema(
        [("prompt", pa.string()), ("chosen", _IMAGE), ("rejected", _IMAGE), ("label", pa.float32())]
    )
    types = {"prompt": "string", "label": "float32"}
    features = {
        name: {"dtype": types[name], "_type": "Value"} if name in types else {"_type": "Image"}
        for name in schema.names
    }
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})

    def image(sample_id: str) -> dict[str, Any]:
        data = images(sample_id)
        return {"bytes": data, "path": image_name(sample_id, data)}

    rows = (
        {
            "prompt": pair.prompt,
            "chosen": image(pair.chosen_id),
            "rejected": image(pair.rejected_id),
            "label": pair.label,
        }
        for pair in pairs
    )
    _write_parquet(out, schema, rows)


def _write_parquet(out: Path, schema: Any, rows: Iterator[dict[str, Any]]) -> None:
    with pq.ParquetWriter(out, schema, compression="zstd", write_page_checksum=True) as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == ROWS:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, schema))


def _flow_factory(dataset: Dataset, pairs: Iterator[Pair], images: Images, out: Path) -> None:
    """Write Flow-Factory's manifest of offline preferences, version 2: train.jsonl and the images."""
    written: dict[str, str] = {}
    with (out / "train.jsonl").open("w", encoding="utf-8") as file:
        for pair in pairs:
            sides = {}
            for side, sample_id in (("chosen", pair.chosen_id), ("rejected", pair.rejected_id)):
                path = _put_image(out, sample_id, images, written)
                sides[side] = {"media": [{"type": "image", "path": path}]}
            record = {
                "schema_version": 2,
                "input": {"prompt": pair.prompt, "media": []},
                "supervision": {"type": "preference", **sides},
                "metadata": {"pair_id": pair.pair_id, "label": pair.label, "source": pair.source},
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _put_image(out: Path, sample_id: str, images: Images, written: dict[str, str]) -> str:
    """Write an image once and return its path relative to `out`."""
    if sample_id not in written:
        data = images(sample_id)
        path = below(out, "images", image_name(sample_id, data))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        written[sample_id] = path.relative_to(out).as_posix()
    return written[sample_id]


def _webdataset(dataset: Dataset, pairs: Iterator[Pair], images: Images, out: Path) -> None:
    """Write tars with chosen.png, rejected.png (or the images' own suffix) and json for every pair."""
    from webdataset import TarWriter

    writer, shard, size = None, 0, 0
    try:
        for pair in pairs:
            if writer is None or size >= _TAR_BYTES:
                if writer is not None:
                    writer.close()
                writer, size = TarWriter(str(out / f"pairs-{shard:06d}.tar"), encoder=False, mtime=0), 0
                shard += 1
            metadata = {
                **{"prompt": pair.prompt, "prompt_id": pair.prompt_id, "label": pair.label},
                **{"chosen_id": pair.chosen_id, "rejected_id": pair.rejected_id},
                **{"votes": pair.votes, "source": pair.source},
            }
            chosen, rejected = images(pair.chosen_id), images(pair.rejected_id)
            member = {
                "__key__": pair.pair_id,
                image_name("chosen", chosen): chosen,
                image_name("rejected", rejected): rejected,
                "json": json.dumps(metadata, ensure_ascii=False, sort_keys=True).encode(),
            }
            size += writer.write(member)
    finally:
        if writer is not None:
            writer.close()


def _csv(dataset: Dataset, pairs: Iterator[Pair], images: Images, out: Path) -> None:
    """Write the plain form that `--format table` imports; a is the chosen image."""
    names = ["pair_id", "prompt", "a", "b", "label", "votes", "source"]
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for pair in pairs:
            prompt, source = guarded(pair.prompt), guarded(pair.source)
            values = (pair.pair_id, prompt, pair.chosen_id, pair.rejected_id, pair.label, pair.votes, source)
            writer.writerow(dict(zip(names, values, strict=True)))


LABEL_STUDIO_CONFIG = """<View>
  <Header value="$prompt"/>
  <Pairwise name="preferred" toName="a,b"/>
  <View style="display: flex; gap: 1em">
    <Image name="a" value="$image_a"/>
    <Image name="b" value="$image_b"/>
  </View>
  <Choices name="tie" toName="a" choice="single">
    <Choice value="tie"/>
  </Choices>
</View>
"""


def _label_studio(dataset: Dataset, pairs: Iterator[Pair], images: Images, out: Path) -> None:
    """Write tasks to label the pairs again: tasks.json, config.xml, and the images for local storage.

    The sides are pseudo-random, and the tasks do not show a pair's label.
    """
    written: dict[str, str] = {}
    (out / "config.xml").write_text(LABEL_STUDIO_CONFIG, encoding="utf-8")
    with (out / "tasks.json").open("w", encoding="utf-8") as file:
        separator = "["
        for pair in pairs:
            sides = [pair.chosen_id, pair.rejected_id]
            a, b = reversed(sides) if pair.swapped else sides
            data = {"prompt": pair.prompt, "a_id": a, "b_id": b}
            for side, sample_id in (("image_a", a), ("image_b", b)):
                data[side] = f"/data/local-files/?d={_put_image(out, sample_id, images, written)}"
            file.write(separator + "\n" + json.dumps({"data": data}, ensure_ascii=False))
            separator = ","
        file.write("\n]\n" if separator == "," else "[]\n")


EXPORTS: dict[str, Callable[[Dataset, Iterator[Pair], Images, Path], None]] = {
    "pickapic": _pick_a_pic,
    "trl": _trl,
    "flow-factory": _flow_factory,
    "webdataset": _webdataset,
    "csv": _csv,
    "label-studio": _label_studio,
}
FOLDERS = {"flow-factory", "webdataset", "label-studio"}
"""Formats that are a folder."""
HARD = {"pickapic"}
"""Formats that represent only wins and ties."""
