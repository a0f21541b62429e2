"""The page in headless Chromium: nothing is said on the console, the table sorts, and all text can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Page, browser
from report_folder import claims_of, make_folder

from hpr.report import write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        browser() is None, reason="needs a Chromium on PATH, or named by HPR_CHROMIUM"
    ),
]

ROWS = "[...document.querySelectorAll('#claims-table tbody tr')]"
SHOWN = f"{ROWS}.filter(row => row.getClientRects().length)"
# For each element with text of its own: its colour over the first opaque grounds below it, as WCAG 2 counts contrast.
CONTRAST = """(() => {
  const number = (text) => text.match(/[\\d.]+/g).map(Number);
  const over = (top, below) => {
    const a = top[3] ?? 1;
    return [0, 1, 2].map((i) => a * top[i] + (1 - a) * below[i]);
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(number(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    if (element.closest("svg, script, noscript")) continue;
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own && !element.matches("input, select")) continue;
    const part = element.matches("input") ? "::placeholder" : null;
    const below = ground(element), ink = over(number(getComputedStyle(element, part).color), below);
    const pair = [light(ink), light(below)].sort((a, b) => b - a);
    found.push([(pair[0] + .05) / (pair[1] + .05), element.tagName, element.textContent.trim().slice(0, 40)]);
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_folder(tmp_path_factory.mktemp("browser") / "results"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    opened = Page(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_opens_without_a_word(page: Page, path: Path, width: int, dark: bool) -> None:
    """No error, no request but for the page itself, nothing wider than the window, and every picture is drawn."""
    page.open(path, width=width, dark=dark)
    page.run("document.querySelectorAll('details').forEach(e => { e.open = true })")
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith("data:")] == [path.as_uri()]
    assert page.run("document.documentElement.scrollWidth") == width
    boxes = page.run(
        "[...document.querySelectorAll('svg, img')].map(e => e.getBoundingClientRect())"
        ".map(box => [box.width, box.height])"
    )
    assert len(boxes) > 20
    assert all(box_width > 50 and height > 50 for box_width, height in boxes)
    loaded = page.run(
        "Promise.all([...document.querySelectorAll('image, img')].map(async (e) => {"
        " const copy = new Image(); copy.src = e.src || e.href.baseVal; await copy.decode();"
        " return copy.naturalWidth > 0; }))"
    )
    assert all(loaded)


@pytest.mark.parametrize("width", [400, 800, 1400])
def test_what_a_cell_holds_ends_within_it(page: Page, path: Path, width: int) -> None:
    """Otherwise it would touch the next column, or be cut off at the end of the last."""
    page.open(path, width=width)
    # The longest word of a column that this folder's claims do not have.
    assert page.run(
        "[...document.querySelectorAll('.tag.same, .tag.differs')]"
        ".map(e => { e.textContent = 'within spread'; }).length"
    )
    beyond = page.run(
        "[...document.querySelectorAll('td, th')].filter(e => e.checkVisibility() && e.offsetParent.clientWidth > 1)"
        ".map(e => {"
        " const inside = document.createRange(); inside.selectNodeContents(e);"
        " const right = e.getBoundingClientRect().right - parseFloat(getComputedStyle(e).paddingRight);"
        " return [e.textContent.trim(), inside.getBoundingClientRect().right - right]; })"
        ".filter(([_, over]) => over > 1)"
    )
    assert beyond == []


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_stands_out(page: Page, path: Path, dark: bool) -> None:
    """Contrast is at least 4.5 to 1, WCAG's bound for text."""
    page.open(path, width=1400, dark=dark)
    page.run("document.querySelectorAll('details').forEach(e => { e.open = true })")
    measured = page.run(CONTRAST)
    assert len(measured) > 300
    assert [low for low in measured if low[0] < 4.5] == []


def test_low_contrast_is_found(page: Page, tmp_path: Path) -> None:
    grey = tmp_path / "grey.html"
    grey.write_text("<body><p style='color: #888'>grey on white, 3.54 to 1</p></body>", "utf-8")
    page.open(grey, width=400)
    ((contrast, _, _),) = page.run(CONTRAST)
    assert contrast == pytest.approx(3.54, abs=0.01)


def cells(page: Page, column: int) -> list[str]:
    found: list[str] = page.run(f"{ROWS}.map(row => row.cells[{column}].dataset.sort)")
    return found


@pytest.mark.parametrize(("column", "numeric"), [(1, False), (3, False), (5, True), (6, True)])
def test_the_table_sorts_by_click_and_by_key(
    page: Page, path: Path, column: int, numeric: bool
) -> None:
    page.open(path, width=1400)
    before = cells(page, column)
    button = f"document.querySelectorAll('#claims-table thead button')[{column}]"
    page.run(f"{button}.click()")
    ascending = cells(page, column)
    known = [value for value in before if value]
    assert ascending == sorted(known, key=float if numeric else str) + [""] * before.count("")
    direction = f"{button}.parentElement.getAttribute('aria-sort')"
    assert page.run(direction) == "ascending"
    page.run(f"{button}.focus()")
    for kind in ("keyDown", "keyUp"):
        enter: dict[str, Any] = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        page.send("Input.dispatchKeyEvent", type=kind, text="\r", **enter)
    assert page.run(direction) == "descending"
    descending = cells(page, column)
    assert [value for value in descending if value] != [value for value in ascending if value]
    assert sorted(descending) == sorted(before)
    assert descending[len(known) :] == [""] * before.count("")


def test_search_and_filters_choose_rows(page: Page, path: Path) -> None:
    page.open(path, width=1400)
    claims = claims_of(path.parent)

    def given(element: str, value: str, event: str) -> list[str]:
        page.run(
            f"(e => {{ e.value = '{value}'; e.dispatchEvent(new Event('{event}')) }})"
            f"(document.getElementById('{element}'))"
        )
        found: list[str] = page.run(f"{SHOWN}.map(row => row.textContent)")
        return found

    about = given("search", "KERNEL dms", "input")
    assert len(about) == 1
    assert "DMS" in about[0]
    assert page.run("document.getElementById('shown').textContent") == "1 of 20 claims shown"
    assert given("search", "no such words", "input") == []
    given("search", "", "input")
    assert len(given("by-figure", "18", "change")) == 4
    agreeing = sum(f == "18" and finding["verdict"] == "agrees" for f, finding in claims)
    assert len(given("by-verdict", "agrees", "change")) == agreeing
    page.run("document.getElementById('reset').click()")
    assert page.run(f"{SHOWN}.length") == 20
    page.run("document.querySelector('[data-claims=\"1\"]').click()")
    assert page.run(f"{SHOWN}.length") == 16


def test_the_learning_curves_open_together(page: Page, path: Path) -> None:
    page.open(path, width=1400)
    closed = "document.querySelectorAll('#curves details:not([open])').length"
    button = "document.querySelector('[data-open=curves]')"
    assert page.run(closed) == 4
    page.run(f"{button}.click()")
    assert page.run(closed) == 0
    assert page.run(f"{button}.textContent") == "Close all"
    page.run(f"{button}.click()")
    assert page.run(closed) == 5


def test_a_phone_sorts_too(page: Page, path: Path) -> None:
    """On a narrow page the heads of the table are out of sight, and a list of columns stands in their place."""
    page.open(path, width=400)
    page.run(
        "(e => { e.value = '5'; e.dispatchEvent(new Event('change')) })(document.getElementById('order'))"
    )
    known = [float(value) for value in cells(page, 5) if value]
    assert known == sorted(known)
    assert page.run("document.getElementById('order').getClientRects().length") == 1


def test_the_focus_is_seen(page: Page, path: Path) -> None:
    """Every element that a key reaches has an outline when it has the focus."""
    page.open(path, width=1400)
    for _ in range(25):
        for kind in ("keyDown", "keyUp"):
            page.send("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
        outline = page.run("getComputedStyle(document.activeElement).outline")
        assert "solid 3px" in outline, page.run("document.activeElement.outerHTML.slice(0, 100)")


def test_the_page_prints_with_what_was_closed(page: Page, path: Path) -> None:
    page.open(path, width=1400)
    opened = "document.querySelectorAll('details[open]').length"
    # The learning curves of the first shape are open.
    assert page.run(opened) == 1
    assert page.printed().startswith(b"%PDF-")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("document.querySelectorAll('details:not([open])').length") == 0
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run(opened) == 1
    page.send("Emulation.setEmulatedMedia", media="print")
    hidden = "getComputedStyle(document.querySelector('nav')).display"
    assert page.run(hidden) == "none"
