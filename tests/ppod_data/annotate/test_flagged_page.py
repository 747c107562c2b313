"""The page of a data set in a real browser: flagged images are blurred, and numbers can be told apart."""

from dataclasses import replace
from pathlib import Path

from ppod_data.dataset.dataset import Dataset, create
from ppod_data.format.shards import ShardWriter
from ppod_data.inspect.viewer import write_viewer
from tests.support.browser import chromium
from tests.support.tables import add_pairs, add_scores
from tests.support.toy import make_dataset, make_sample, make_spec


def make(root: Path) -> Dataset:
    """Six images, of which the second and the last are flagged, and a pair of the first two."""
    spec = make_spec(safety_checker="c" * 64)
    create(root, spec)
    for shard in range(spec.num_shards):
        with ShardWriter(root, shard) as writer:
            for index in spec.shard_range(shard):
                writer.add(replace(make_sample(spec, index), flagged=index in (1, 5)))
    add_pairs(Dataset.open(root), "people", [(0, 1)])
    return Dataset.open(root)


def test_a_flagged_image_is_blurred_until_it_is_clicked(tmp_path: Path) -> None:
    write_viewer(make(tmp_path / "data"), tmp_path / "page.html")
    with chromium() as browser:
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        blurred, tiles = page.locator(".shown img.flagged"), page.locator(".sample")
        assert (tiles.count(), blurred.count()) == (6, 2)
        assert "blur" in blurred.first.evaluate("image => getComputedStyle(image).filter")
        assert "flagged 2 of them" in page.locator(".browser .note").inner_text()

        tiles.nth(1).click()
        assert blurred.count() == 1 and not page.locator("dialog").is_visible(), (
            "the first click shows it alone"
        )
        tiles.nth(1).click()
        assert (
            page.locator("dialog img.flagged").count() == 0
            and "safety checker" in page.locator("dialog").inner_text()
        )
        page.keyboard.press("Escape")

        tiles.nth(0).click()  # from here the last one, by going back: it is still blurred
        page.keyboard.press("ArrowLeft")
        assert page.locator("dialog img.flagged").count() == 1
        page.locator("dialog img").click()
        assert page.locator("dialog img.flagged").count() == 0
        page.keyboard.press("Escape")
        assert blurred.count() == 0

        page.reload()
        page.get_by_role("button", name="pairs").click()
        halves = page.locator(".half")
        assert page.locator(".half img.flagged").count() == 1
        halves.nth(1).click()
        assert page.locator(".half img.flagged").count() == 0 and not page.locator("dialog").is_visible()
        assert errors == []


def test_scores_of_a_small_range_can_be_told_apart(tmp_path: Path) -> None:
    """As in the histogram above them, the range of a table says how many digits its numbers have."""
    dataset = make_dataset(tmp_path / "data")
    add_scores(dataset, "hpsv2", [0.2691, 0.2702, 0.2715, 0.2733, 0.2761, None])
    add_scores(dataset, "tiny", [1e-9, 2e-9, 3e-9, 4e-9, -1e-9, 0.0])
    add_pairs(dataset, "people", [(1, 0), (4, 3)], margin=0.0042)
    write_viewer(dataset, tmp_path / "page.html")
    with chromium() as browser:
        page = browser.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        tiles = page.locator(".sample b")
        assert tiles.all_inner_texts() == ["0.2691", "0.2702", "0.2715", "0.2733", "0.2761", "–"]
        page.locator(".sample").nth(0).click()
        assert "0.26910" in page.locator("dialog").inner_text()
        page.keyboard.press("Escape")
        page.get_by_label("score").first.select_option("tiny")
        assert tiles.all_inner_texts() == [*("1.0e−9", "2.0e−9", "3.0e−9", "4.0e−9", "−1.0e−9", "0.0e0")]
        page.locator(".tabs button").nth(1).click()
        assert "margin 0.0042" in page.locator(".pair").first.inner_text()
