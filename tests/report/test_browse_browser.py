"""The page of a dataset in a real browser, as test_browser.py looks at that of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mldec.commands.main import run
from tests.report.test_browse import write_dataset
from tests.report.test_browser import CONTRASTS, assert_named, browser, playwright, pytestmark

__all__ = ["browser", "playwright", "pytestmark"]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browse")
    overrides = write_dataset(folder / "photos")
    assert run(["data", "browse", *overrides, f"output={folder}/browse.html"]) == 0
    return folder / "browse.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desk", "phone"])
def test_nothing_is_complained_of_sticks_out_or_is_faint(browser, page_file, size, scheme):
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else 0
    )
    page.goto(page_file.as_uri())
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    page.evaluate("for (const i of document.images) i.loading = 'eager'")
    page.wait_for_function("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert said == []
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRASTS) == []
    context.close()


SHOWN = "[...document.querySelectorAll('.photo:not([hidden])')].map((p) => [p.dataset.split, p.dataset.present])"


def test_the_keyboard_reaches_the_filters_and_they_choose(browser, page_file):
    page = browser.new_page()
    page.goto(page_file.as_uri())
    everything = page.evaluate(SHOWN)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.by") == "split":
            break
    else:
        pytest.fail("Tab does not reach the filters")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(SHOWN) == [photo for photo in everything if photo[0] == "val"]
    page.select_option("[data-by=split]", "")
    page.select_option("[data-by=label]", "2")
    expected = [photo for photo in everything if "2" in photo[1].split()]
    assert page.evaluate(SHOWN) == expected
    assert page.inner_text("#choose output") == f"{len(expected)} of {len(everything)} images"
    counts = [len(expected)]
    for state in ("absent", "unknown"):
        page.select_option("[data-by=state]", state)
        counts.append(len(page.evaluate(SHOWN)))
    assert min(counts) > 0
    assert sum(counts) == len(everything)
    page.select_option("[data-by=label]", "none")
    assert all(photo[1] == "" for photo in page.evaluate(SHOWN))
    page.select_option("[data-by=label]", "")
    page.select_option("[data-by=problem]", "same")
    assert len(page.evaluate(SHOWN)) == 2
    page.select_option("[data-by=problem]", "")
    page.fill("[data-by=text]", "VAL1.")
    assert [photo[0] for photo in page.evaluate(SHOWN)] == ["val"]
    page.close()


def test_names_are_there_for_those_who_do_not_see_them(browser, page_file):
    page = browser.new_page()
    page.goto(page_file.as_uri())
    assert_named(page)
    for control in page.query_selector_all("#choose select, #choose input"):
        assert page.evaluate("(e) => e.labels.length", control) == 1
    page.close()


def test_without_javascript_all_images_are_there(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator(".photo:visible").count() == 52
    assert not page.locator("#choose").is_visible()
    context.close()
