"""The page of a data set in a real browser: a flagged image is blurred until it is clicked."""

from dataclasses import replace
from pathlib import Path

from ppod_data.dataset.dataset import Dataset, create
from ppod_data.format.shards import ShardWriter
from ppod_data.inspect.viewer import write_viewer
from tests.support.browser import chromium
from tests.support.tables import add_pairs
from tests.support.toy import make_sample, make_spec


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
