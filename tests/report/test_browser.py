"""The page in a real browser: nothing is complained of, nothing sticks out, the keyboard reaches everything.

Needs playwright and a Chromium, and is left out where there is none.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mldec.commands.main import run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the PATH")

CONTRASTS = """() => {
  // WCAG 2 contrast of every text with what it stands on, the worst of each selector.
  const luminance = (rgb) => rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script, style, [hidden], .skip")) continue;
    const grounds = [];
    for (let e = element; e; e = e.parentElement) grounds.unshift(getComputedStyle(e).backgroundColor);
    const style = getComputedStyle(element);
    const ink = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [luminance(paint(grounds)), luminance(paint([...grounds, ink]))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push([element.tagName, element.className, ratio, walker.currentNode.data.slice(0, 30)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(trained: Path, second: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    pages = {"one": folder / "one.html", "two": folder / "two.html"}
    assert run(["report", f"run={trained}", f"output={pages['one']}"]) == 0
    assert run(["report", f"run={trained},{second}", f"output={pages['two']}"]) == 0
    return pages


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desk", "phone"])
@pytest.mark.parametrize("name", ["one", "two"])
def test_nothing_is_complained_of_sticks_out_or_is_faint(browser, pages, name, size, scheme):
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else 0
    )
    page.goto(pages[name].as_uri())
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    assert said == []
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRASTS) == []
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert page.locator("main").count() == 1
    context.close()


def test_the_keyboard_sorts_and_filters(browser, pages):
    page = browser.new_page()
    page.goto(pages["one"].as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#ap th')?.dataset.column") == "1":
            break
    else:
        pytest.fail("Tab does not reach the head of the table")
    column = "[...document.querySelectorAll('#ap tbody tr')].map((row) => Number(row.cells[1].textContent))"
    page.keyboard.press("Enter")
    assert page.evaluate(column) == sorted(page.evaluate(column), reverse=True)
    page.keyboard.press("Space")
    assert page.evaluate(column) == sorted(page.evaluate(column))
    assert page.get_attribute("#ap th[data-column='1']", "aria-sort") == "ascending"
    assert page.get_attribute("#ap th[data-column='2']", "aria-sort") is None
    page.close()


def assert_named(page: Any) -> None:
    """Images, regions, tables and navigation of a page in a browser have names."""
    for role in ("img", "region", "table", "navigation"):
        everything = page.get_by_role(role)
        for i in range(everything.count()):
            assert page.evaluate(
                "(e) => e.getAttribute('aria-label') || e.alt || e.caption?.textContent"
                " || e.getAttribute('aria-labelledby')",
                everything.nth(i).element_handle(),
            )


def test_images_and_tables_have_names(browser, pages):
    for path in pages.values():
        page = browser.new_page()
        page.goto(path.as_uri())
        assert_named(page)
        assert page.get_by_role("heading", level=1).count() == 1
        page.close()


def test_without_javascript_all_is_there(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["one"].as_uri())
    assert page.locator("#ap tbody tr").count() == 5
    assert page.locator("#ap button").count() == 0
    context.close()
