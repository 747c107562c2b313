"""Export of images as PNG files whose metadata states that they are generated, by which model, from which prompt.

The pixels and their compression are untouched; an XMP packet is inserted after the PNG's header. It holds the
IPTC digital source type of generated media and the IPTC Photo Metadata Standard 2025.1 fields for prompt and
model. An image with metadata of its own keeps its bytes: content credentials (C2PA) sign the whole file and
would become invalid. With the metadata.jsonl beside the images, `datasets` reads the folder as an
"imagefolder".
"""

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.format.images import image_name
from ppod_data.format.prompts import visible
from ppod_data.format.shards import committed_shards
from ppod_data.storage.files import atomic_create, atomic_write, below, is_temporary, read_small
from ppod_data.storage.real_folders import refuse_linked_folders, settled
from ppod_data.support.progress import SILENT, Progress

LAYOUTS = ("prompt", "flat")
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_MARK = ".ppod-export"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_OTHERS = (b"\xff\xd8", b"RIFF")
"""The first bytes of JPEG and WebP files."""
_XMP = b"XML:com.adobe.xmp\0"
_HEADER = len(_SIGNATURE) + 25
"""Bytes of the signature and the IHDR chunk, which is always first."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SLUG = re.compile(r"[^a-z0-9]+")
_COLUMNS = ("sample_id", "prompt_id", "prompt", "image_index", "seed", "image", "image_sha256")


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """The result of `export`."""

    num_images: int
    num_skipped: int
    """Images among them whose file existed already."""


def export(
    dataset: Dataset,
    out: Path,
    *,
    layout: str = "prompt",
    progress: Progress = SILENT,
) -> ExportSummary:
    """Write every image to `out`/<prompt>/<sample_id>.png, or to `out`/<sample_id>.png with the layout "flat".

    Given images (`spec.is_forward`) are written unchanged. metadata.jsonl, written last, has one line an image:
    file_name, sample_id, prompt, image_index, seed, model, flagged (if a safety checker ran), and score_<name>
    for each score table. Existing files are kept, so that an interrupted export can be resumed.

    Args:
        dataset: the data set.
        out: a new folder, or one with an export of this data set.
        layout: "prompt" or "flat".
        progress: counts images.

    Raises:
        ConfigError: `out` holds other files than an export of this data set.
        DamagedError: an image differs from the committed one.
    """
    out = settled(out)
    if layout not in LAYOUTS:
        raise ConfigError(f"layout is {layout!r}: choose one of {', '.join(LAYOUTS)}")
    _claim(out, f"{dataset.spec.fingerprint} {layout}\n")
    scores = {
        f"score_{name}": dict(zip(table["sample_id"].to_pylist(), table["score"].to_pylist(), strict=True))
        for name in dataset.score_names()
        for table in [dataset.scores(name)]
    }
    lines, skipped = [], 0
    shards = committed_shards(dataset.root)
    progress.start(sum(len(dataset.spec.shard_range(shard)) for shard in shards), "images")
    columns = _COLUMNS if dataset.spec.safety_checker is None else (*_COLUMNS, "flagged")
    for table in dataset.iter_samples(columns):
        for row in table.to_pylist():
            name = image_name(row["sample_id"], row["image"]["bytes"])
            folders = [folder_name(row["prompt"], row["prompt_id"])] if layout == "prompt" else []
            path = below(out, *folders, name)
            if path.exists():
                skipped += 1
            else:
                atomic_write(path, _labelled(row, dataset))
            line = {"file_name": path.relative_to(out).as_posix()} | {
                key: row[key]
                for key in ("sample_id", "prompt", "image_index", "seed", "flagged")
                if key in row
            }
            line |= {"model": None if dataset.spec.is_forward else dataset.spec.model} | {
                key: column.get(row["sample_id"]) for key, column in scores.items()
            }
            lines.append(json.dumps(line, ensure_ascii=False))
        progress.advance(table.num_rows)
    atomic_write(out / "metadata.jsonl", "".join(f"{line}\n" for line in lines).encode())
    return ExportSummary(num_images=len(lines), num_skipped=skipped)


def folder_name(prompt: str, prompt_id: str) -> str:
    """Return a folder name for a prompt: its words in plain letters, and hex digits that make it unique."""
    words = _SLUG.sub("-", prompt.lower()).strip("-")[:48].strip("-")
    return f"{words}-{prompt_id[:8]}" if words else prompt_id[:8]


def xmp_packet(row: Mapping[str, Any], model: str, revision: str) -> str:
    """Return the XMP of one image: digital source type, prompt, model, its revision, sample_id."""
    prompt, model, revision, sample_id = (
        escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text))
        for text in (row["prompt"], model, revision, row["sample_id"])
    )
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
<Iptc4xmpExt:DigitalSourceType>{GENERATED}</Iptc4xmpExt:DigitalSourceType>
<Iptc4xmpExt:AIPromptInformation>{prompt}</Iptc4xmpExt:AIPromptInformation>
<Iptc4xmpExt:AISystemUsed>{model}</Iptc4xmpExt:AISystemUsed>
<Iptc4xmpExt:AISystemVersionUsed>{revision}</Iptc4xmpExt:AISystemVersionUsed>
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{prompt}</rdf:li></rdf:Alt></dc:description>
<dc:identifier>{sample_id}</dc:identifier>
<xmp:CreatorTool>ppod</xmp:CreatorTool>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def with_xmp(png: bytes, packet: str) -> bytes:
    """Insert an XMP packet after a PNG's header; the rest is unchanged. Raises `ValueError` for other files."""
    if not png.startswith(_SIGNATURE) or png[12:16] != b"IHDR":
        raise ValueError("not a PNG file")
    body = b"iTXt" + _XMP + b"\0\0\0\0" + packet.encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:_HEADER] + chunk + png[_HEADER:]


def has_own_metadata(data: bytes) -> bool:
    """Return true for a PNG with content credentials (chunk caBX) or XMP.

    JPEG and WebP count too: they are not labelled.
    """
    if not data.startswith(_SIGNATURE):
        return data.startswith(_OTHERS)
    offset = len(_SIGNATURE)
    while offset + 8 <= len(data):
        size, chunk_type = struct.unpack_from(">I4s", data, offset)
        if chunk_type == b"caBX" or (chunk_type == b"iTXt" and data.startswith(_XMP, offset + 8)):
            return True
        offset += size + 12
    return False


def _labelled(row: Mapping[str, Any], dataset: Dataset) -> bytes:
    data = row["image"]["bytes"]
    where = f"{dataset.root}: image of sample {row['sample_id']}"
    if hashlib.sha256(data).hexdigest() != row["image_sha256"]:
        raise DamagedError(f"{where}: its bytes do not match image_sha256: get its part of samples/ again")
    if has_own_metadata(data):
        return bytes(data)
    spec = dataset.spec
    if spec.is_forward:
        return bytes(data)
    model = spec.model + (f" with {spec.adapter}" if spec.adapter else "")
    try:
        return with_xmp(data, xmp_packet(row, visible(model), spec.revision or spec.policy_fingerprint))
    except ValueError as error:
        raise DamagedError(f"{where}: {error}: get its part of samples/ again") from error


def _claim(out: Path, mark: str) -> None:
    """Mark `out` as the folder of this export, or check that it is."""
    refuse_linked_folders(out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: a file of this name exists: give the path of a new folder")
    if not (out / _MARK).exists() and out.exists() and not all(map(is_temporary, out.iterdir())):
        raise ConfigError(f"{out}: the folder holds other files: give a new or an empty folder")
    if not atomic_create(out / _MARK, mark.encode()) and read_small(out / _MARK, 1000) != mark.encode():
        raise ConfigError(f"{out}: holds the export of another data set or layout: give a new folder")
