"""axe-core's rules of WCAG 2.1 AA, run in chromium."""

from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

_OPTIONS = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
"""axe-core describes the elements of violations alone, which is quicker on long pages."""
Scheme = Literal["light", "dark"]
SCREENS: list[tuple[Scheme, int]] = [("light", 1280), ("dark", 390)]
"""Colours depend on the scheme alone, and the order of things on the width alone: each is seen once."""


def violations(page: Any, *, without: str | None = None) -> list[str]:
    """Return the broken rules of a page that is open, each with its first element; the rule `without` is left out."""
    rules = {} if without is None else {without: {"enabled": False}}
    found = Axe().run(page, options=_OPTIONS | {"rules": rules}).response["violations"]
    return [f"{rule['id']}: {len(rule['nodes'])} × {rule['nodes'][0]['html'][:120]}" for rule in found]


def violations_by_screen(
    browser: Browser, url: str, *, without: str | None = None
) -> dict[tuple[str, int], list[str]]:
    """Return the broken rules of a page on a light desktop and on a dark phone, every section open."""
    found = {}
    for scheme, width in SCREENS:
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        page = context.new_page()
        page.goto(url)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        if broken := violations(page, without=without):
            found[scheme, width] = broken
        context.close()
    return found
