"""The page about a data set: complete, bounded, self-contained, and safe with what a stranger wrote."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppod_data.dataset.dataset import create
from ppod_data.format.prompts import visible
from ppod_data.inspect.selection import select, spread
from ppod_data.inspect.viewer import write_viewer
from tests.support.damage import spoil_image
from tests.support.tables import add_pairs, add_scores
from tests.support.toy import make_dataset, make_sample, make_spec

EVIL = "<script>alert(1)</script>\u202e</script><!-- \"'&"


class Page(HTMLParser):
    """The elements of a page, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.scripts[-1] == "":
            self.scripts[-1] = data

    def data(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.scripts[0])
        return value


def page_of(root: Path, **options: Any) -> tuple[str, Page]:
    from ppod_data.dataset.dataset import Dataset

    out = root.parent / "page.html"
    write_viewer(Dataset.open(root), out, **options)
    return out.read_text("utf-8"), Page(out.read_text("utf-8"))


def test_every_image_and_pair_of_a_small_data_set_is_there(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    add_scores(dataset, "a", [0, 1, 2, 3, 4, None])
    add_pairs(dataset, "people", [(1, 0), (4, 3)], margin=None, votes=7)
    text, page = page_of(dataset.root)
    data = page.data()
    assert data["prompts"] == list(dataset.spec.prompts) and data["scores"] == ["a"]
    for n, image in enumerate(data["images"]):
        sample = make_sample(dataset.spec, n)
        assert (image["id"], image["k"]) == (sample.sample_id, n % 3)
        assert image["scores"] == [None if n == 5 else float(n)]
        png = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        assert np.array_equal(
            np.asarray(Image.open(io.BytesIO(png))), np.asarray(decoded(sample.image_bytes))
        )
    assert data["pairs"] == {"people": [[1, 0, 1, None, "reward:a", 7], [4, 3, 1, None, "reward:a", 7]]}
    assert "zwölf grüne Hasen 🐇" in text


def decoded(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    text, page = page_of(dataset.root)
    assert not re.search(r"https?://|url\(|@import", text)
    assert not [tag for tag, values in page.tags if tag in ("link", "iframe") or "src" in values]
    [policy] = [v["content"] for t, v in page.tags if v.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy.startswith("default-src 'none'")


def test_a_stranger_s_texts_stay_texts(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", prompts=(EVIL, "b"), negative_prompt=EVIL, model=EVIL)
    add_scores(dataset, "a", [0.0] * 6)
    add_pairs(dataset, "p", [(1, 0)], source=EVIL)
    text, page = page_of(dataset.root)
    assert [tag for tag, _ in page.tags].count("script") == 2, "the page's data and its own script"
    assert "<script>alert" not in text and "\u202e" not in text
    assert page.data()["prompts"] == [visible(EVIL), "b"]


def test_control_characters_are_shown_as_such() -> None:
    assert visible("a\x1b[31m\tb\n\ud800c") == "a\N{REPLACEMENT CHARACTER}[31m b \N{REPLACEMENT CHARACTER}c"


@pytest.mark.parametrize("count", [1, 4, 7])
def test_the_number_of_images_is_bounded(tmp_path: Path, count: int) -> None:
    dataset = make_dataset(tmp_path / "data", num_images_per_prompt=10)
    add_scores(dataset, "a", [float(n) for n in range(20)])
    add_pairs(dataset, "p", [(n, n - 1) for n in range(1, 10)])
    text, page = page_of(dataset.root, max_images=count)
    data = page.data()
    assert len(data["images"]) == count
    assert f"{count} of 20 images" in text
    for rows in data["pairs"].values():
        assert all(max(chosen, rejected) < count for chosen, rejected, *_ in rows)


def test_large_images_are_embedded_small(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", height=300, width=600)
    _, page = page_of(dataset.root)
    for image in page.data()["images"]:
        data = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(data)).size == (256, 128) and len(data) < 50_000


def test_a_prompt_s_best_and_worst_images_are_chosen() -> None:
    samples = [{"sample_id": str(n), "prompt_id": str(n // 50)} for n in range(100)]
    scores = {"a": np.array([(7 * n) % 50 for n in range(100)], np.float64)}
    chosen = select(samples, scores, {}, 10).rows
    assert len(chosen) == 10
    for prompt in (0, 1):
        values = [scores["a"][row] for row in chosen if row // 50 == prompt]
        assert (min(values), max(values)) == (0, 49)


def test_few_prompts_are_chosen_where_there_are_many() -> None:
    samples = [{"sample_id": str(n), "prompt_id": str(n // 4)} for n in range(4000)]
    rows = select(samples, {}, {}, 40).rows
    assert len(rows) == 40 and len({row // 4 for row in rows}) == 10


def test_spread_keeps_both_ends() -> None:
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread(range(3), 4) == [0, 1, 2] and spread(range(3), 1) == [0] and spread(range(3), 0) == []


def test_an_empty_data_set_has_a_page(tmp_path: Path) -> None:
    create(tmp_path / "data", make_spec())
    text, _ = page_of(tmp_path / "data")
    assert "6 to be made" in text


def test_a_damaged_image_is_shown_as_damaged_beside_the_others(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    name = spoil_image(tmp_path / "data" / "samples" / "000000.parquet")
    text, page = page_of(dataset.root)
    assert "1 image cannot be decoded: ppod-data verify names the files." in text
    [told] = [json.loads(script) for script in page.scripts if script.startswith("{")]
    images = {one["id"]: one for one in told["images"]}
    assert images[name]["damaged"].startswith("cannot decode this image")
    assert all(one["src"].startswith("data:image/png") for key, one in images.items() if key != name)


def test_the_page_says_how_many_pairs_it_shows(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", prompts=["a"], num_images_per_prompt=30)
    add_pairs(dataset, "many", [(a, b) for a in range(30) for b in range(30) if a > b])
    add_pairs(dataset, "few", [(1, 0)])
    text, page = page_of(dataset.root)
    assert len(page.data()["pairs"]["many"]) == 300
    assert "300 of 435 pairs of many." in text and "pairs of few" not in text
