"""What an image says of itself (content credentials, XMP) is in every copy: none of its bytes is changed."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ppod_data.dataset.dataset import Dataset, create
from ppod_data.dataset.exclusions import exclude
from ppod_data.format.images import decode_image, encode_png, pixels_sha256
from ppod_data.format.shards import ShardWriter
from ppod_data.integrity.purge import purge
from ppod_data.labels.export.export import export_pairs
from ppod_data.publish.export_images import GENERATED, export, has_own_metadata, with_xmp
from ppod_data.publish.transfer import pull, push
from tests.support.tables import add_pairs
from tests.support.toy import make_sample, make_spec

XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/">somebody\'s own</x:xmpmeta>'


def box(kind: bytes, body: bytes) -> bytes:
    """An ISO box, as JUMBF is made of."""
    return struct.pack(">I", len(body) + 8) + kind + body


JUMBF = box(
    b"jumb", box(b"jumd", b"c2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\x03c2pa\0") + box(b"json", b"{}")
)


def png_with(kind: bytes, body: bytes) -> bytes:
    """A PNG with one chunk more before its pixels."""
    png = encode_png(Image.new("RGB", (24, 16), "teal"))
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png[:33] + chunk + png[33:]


def jpeg() -> bytes:
    """A JPEG with XMP in APP1 and content credentials in APP11, as C2PA's specification puts them."""
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), "teal").save(buffer, format="JPEG")
    plain = buffer.getvalue()
    segments = [
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP.encode()),
        (0xEB, b"JP" + struct.pack(">HI", 1, 1) + JUMBF),
    ]
    extra = b"".join(
        b"\xff" + bytes([kind]) + struct.pack(">H", len(body) + 2) + body for kind, body in segments
    )
    return plain[:2] + extra + plain[2:]


FILES = {
    "c2pa.png": png_with(b"caBX", JUMBF),
    "xmp.png": with_xmp(encode_png(Image.new("RGB", (24, 16), "teal")), XMP),
    "both.jpg": jpeg(),
}


def make(root: Path, data: bytes) -> Dataset:
    """A data set whose first image is `data`, byte by byte; the others say nothing."""
    spec = make_spec()
    create(root, spec)
    for shard in range(spec.num_shards):
        with ShardWriter(root, shard) as writer:
            for index in spec.shard_range(shard):
                sample = make_sample(spec, index)
                if index == 0:
                    found = pixels_sha256(decode_image(data))
                    sample = replace(sample, image_bytes=data, image_pixels_sha256=found)
                writer.add(sample)
    dataset = Dataset.open(root)
    add_pairs(dataset, "people", [(0, 1)])
    return dataset


def first_image(dataset: Dataset) -> bytes:
    data: bytes = dataset.samples(["image"])["image"][0].as_py()["bytes"]
    return data


@pytest.mark.parametrize("name", FILES)
def test_export_copies_it_byte_by_byte_and_labels_the_others(tmp_path: Path, name: str) -> None:
    dataset = make(tmp_path / "data", FILES[name])
    export(dataset, tmp_path / "out", layout="flat")
    first = dataset.samples(["sample_id"])["sample_id"][0].as_py()
    written = {path.stem: path for path in (tmp_path / "out").glob("*.*g")}
    assert len(written) == 6 and written[first].suffix == Path(name).suffix
    assert written.pop(first).read_bytes() == FILES[name]
    assert all(GENERATED.encode() in path.read_bytes() for path in written.values())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("format", ["pickapic", "trl", "flow-factory", "webdataset", "label-studio"])
def test_an_export_of_pairs_keeps_it(tmp_path: Path, name: str, format: str) -> None:
    dataset = make(tmp_path / "data", FILES[name])
    out = tmp_path / "out"
    export_pairs(dataset, name="people", format=format, out=out)
    copied = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    if format in ("pickapic", "trl"):  # Parquet, whose pages may be compressed
        import pyarrow.parquet as pq

        rows = pq.read_table(copied[0]).to_pylist()
        columns = ("jpg_0", "jpg_1") if format == "pickapic" else ("chosen", "rejected")
        values = [str(rows[0].get(column)) for column in (*columns, *rows[0])]
        assert any(repr(FILES[name])[2:-1] in value for value in values)
    else:
        assert any(FILES[name] in path.read_bytes() for path in copied)


@pytest.mark.parametrize("name", FILES)
def test_purge_push_and_pull_keep_it(tmp_path: Path, name: str) -> None:
    dataset = make(tmp_path / "data", FILES[name])
    other = dataset.samples(["sample_id"])["sample_id"][1].as_py()
    exclude(dataset.root, dataset.spec, [other], [], "asked for")
    purge(Dataset.open(dataset.root))
    assert first_image(Dataset.open(dataset.root)) == FILES[name]
    push(Dataset.open(dataset.root), (tmp_path / "store").as_uri())
    pull((tmp_path / "store").as_uri(), tmp_path / "copy")
    assert first_image(Dataset.open(tmp_path / "copy")) == FILES[name]


def test_what_says_nothing_is_told_from_what_does() -> None:
    plain = encode_png(Image.new("RGB", (24, 16), "teal"))
    assert not has_own_metadata(plain)
    assert not has_own_metadata(png_with(b"tEXt", b"Comment\0caBX and XML:com.adobe.xmp"))
    assert not has_own_metadata(plain[:40]) and not has_own_metadata(b"") and not has_own_metadata(b"GIF89a")
    assert all(has_own_metadata(data) for data in FILES.values())
