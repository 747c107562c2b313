"""The page of a data set, the training report and a comparison pass axe-core's rules of WCAG 2.1 AA.

The labelling page is checked in tests/cli/test_label_page.py, the docs site in tests/contracts/test_docs_site.py.
"""

from pathlib import Path

import pytest

from tests.support.accessibility import violations_by_screen
from tests.support.browser import chromium
from tests.support.command import ran

pytestmark = pytest.mark.long

SMALL = "--num-train-steps 2 --pairs-per-step 2 --eval-every 1 --eval-images-per-prompt 2 --lora-rank 2"


def test_pages_pass_the_rules_of_accessibility(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with chromium() as browser:
        ran("ppod-gen data --prompt 'a cat and a dog' --num-images-per-prompt 8 --num-inference-steps 4")
        ran("ppod-score data --reward scenes")
        ran("ppod-pair rank data --reward scenes")
        for seed in (1, 2):
            ran(f"ppod-train offline data --out run-{seed} --seed {seed} {SMALL}")
        ran("ppod-train report run-1 run-2 --out comparison.html")
        ran("ppod-data info data --html info.html")
        for name in ("run-1/report.html", "comparison.html", "info.html"):
            assert violations_by_screen(browser, (tmp_path / name).as_uri()) == {}, name
