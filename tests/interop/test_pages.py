"""Chromium on the pages of the examples."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..program import Program
from .chromium import Browser, Page, browser

# Starting Chromium on a busy machine may take a while.
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@contextlib.contextmanager
def served(name: str, *arguments: object) -> Iterator[str]:
    """Yield the URL of an example's page."""
    with Program("-m", f"examples.{name}.server", *arguments) as program:
        yield program.url()


def stroke(page: Page, points: list[tuple[int, int]]) -> None:
    """Draw with the mouse, in pixels from the canvas's corner."""
    page.command("Page.bringToFront")  # only there is a mouse
    left, top = page.evaluate("(box => [box.left, box.top])(document.querySelector('canvas').getBoundingClientRect())")
    places = [{"x": left + x, "y": top + y, "button": "left"} for x, y in points]
    page.command("Input.dispatchMouseEvent", type="mousePressed", buttons=1, clickCount=1, **places[0])
    for place in places[1:]:
        page.command("Input.dispatchMouseEvent", type="mouseMoved", buttons=1, **place)
    page.command("Input.dispatchMouseEvent", type="mouseReleased", buttons=0, clickCount=1, **places[-1])


def color_at(page: Page, x: int, y: int) -> list[int]:
    """Return the red, green, blue and alpha of a place on the canvas, in pixels from its corner."""
    got: list[int] = page.evaluate(
        "(canvas => Array.from(canvas.getContext('2d').getImageData("
        f"{x} * canvas.width / canvas.clientWidth, {y} * canvas.height / canvas.clientHeight, 1, 1).data))"
        "(document.querySelector('canvas'))"
    )
    return got


def keep_screenshot(page: Page, name: str) -> None:
    if folder := os.environ.get("WEBSOCKETSERVER_SCREENSHOTS"):
        page.screenshot(Path(folder) / f"{name}.png")


def test_two_whiteboards_draw_and_both_show_it(chromium: Browser) -> None:
    with served("whiteboard", 0) as url, chromium.page(url) as first, chromium.page(url) as second:
        for page in (first, second):
            page.wait_for("document.querySelector('#state').dataset.state === 'open'")
        second.click("#colors input[title=Red]")
        stroke(first, [(50, 50), (150, 50), (250, 50)])
        stroke(second, [(50, 150), (150, 150), (250, 150), (250, 250)])
        for page in (first, second):
            page.wait_for("document.querySelector('canvas').dataset.lines === '5'")
            assert color_at(page, 100, 50) == [0x23, 0x26, 0x2A, 255]
            assert color_at(page, 200, 150) == color_at(page, 250, 200) == [0xC0, 0x39, 0x2B, 255]
            assert color_at(page, 100, 100)[3] == 0
        keep_screenshot(first, "whiteboard")
        with chromium.page(url) as late:
            late.wait_for("document.querySelector('canvas').dataset.lines === '5'")
            assert color_at(late, 200, 150) == [0xC0, 0x39, 0x2B, 255]
            late.click("#clear")
            for page in (first, second, late):
                page.wait_for("document.querySelector('canvas').dataset.lines === '0'")
                assert color_at(page, 200, 150)[3] == 0


def test_a_whiteboard_comes_back_after_its_server(chromium: Browser) -> None:
    with contextlib.ExitStack() as stack:
        with served("whiteboard", 0) as url:
            page = stack.enter_context(chromium.page(url))
            page.wait_for("document.querySelector('#state').dataset.state === 'open'")
        page.wait_for("document.querySelector('#state').dataset.state === 'closed'")
        with served("whiteboard", url.rstrip("/").rpartition(":")[2]):
            page.wait_for("document.querySelector('#state').dataset.state === 'open'")


def test_mirror_and_increment(chromium: Browser) -> None:
    with served("mirror", "--port", 0) as url, chromium.page(url) as first, chromium.page(url) as second:
        for page in (first, second):
            page.wait_for("document.querySelector('#mirror-state').dataset.state === 'open'")
        first.wait_for("Number(document.querySelector('#number').value) > 5")
        first.click("#disconnect")
        first.wait_for("document.querySelector('#increment-state').dataset.state === 'closed'")
        first.click("#connect")
        first.wait_for("document.querySelector('#increment-state').dataset.state === 'open'")
        first.evaluate("window.numbers = []; increment.addEventListener('message', event => numbers.push(event.data))")
        first.click("#reset")
        first.wait_for("numbers.includes('0')")

        first.evaluate("document.querySelector('#color').value = '#2b6cb0'")
        stroke(first, [(30, 30), (130, 30), (130, 130)])
        stroke(second, [(30, 200), (230, 200)])
        for page in (first, second):
            page.wait_for("document.querySelector('canvas').dataset.drawn === '3'")
            assert color_at(page, 80, 30)[:3] == [0x2B, 0x6C, 0xB0]
            assert color_at(page, 130, 200)[:3] == [0, 0, 0]
        keep_screenshot(first, "mirror")
        second.click("#clear")
        first.wait_for("document.querySelector('canvas').dataset.drawn === '0'")


def test_fragmentation(chromium: Browser) -> None:
    with served("fragmentation", "--port", 0, "--fragment", 1000) as url, chromium.page(url) as page:
        page.wait_for("document.querySelector('#state').dataset.state === 'open'")
        page.click("#send")
        page.wait_for("document.querySelectorAll('#log .right').length === 1")
        page.evaluate("document.querySelector('#kind').selectedIndex = 1")
        page.evaluate("document.querySelector('#size').value = 2000000")
        page.click("#send")
        page.wait_for("document.querySelectorAll('#log .right').length === 2")
        assert page.evaluate("document.querySelectorAll('#log .wrong').length") == 0
        assert page.evaluate("document.querySelector('#log td').textContent") == "binary"
        keep_screenshot(page, "fragmentation")
        page.click("#empty")
        assert page.text("#log") == ""
        page.click("#disconnect")
        page.wait_for("document.querySelector('#state').dataset.state === 'closed'")
        page.click("#connect")
        page.wait_for("document.querySelector('#state').dataset.state === 'open'")
