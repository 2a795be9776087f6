"""Driving the dashboard with a real browser: what the browser tests have in common."""

from __future__ import annotations

import os
import re
import runpy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
DESK, LAPTOP = (1920, 1080), (1280, 800)


def find_browser() -> str:
    """Path of a Chromium; without one the test is skipped, or fails under CI=true."""
    found = runpy.run_path(str(ROOT / "scripts" / "find_browser.py"))["find"]()
    if not found:
        why = "no Chromium was found: `make test` installs it, or set FREERUN_BROWSER"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return str(found)


@contextmanager
def open_page(
    url: str, profile: Path, size: tuple[int, int] = DESK, seconds: float = 60
) -> Iterator[Page]:
    """The page at `url` in a browser of its own, once it shows what the server knows.

    `page.complaints` lists the errors of its console and every request that left this server.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=find_browser(), args=ARGUMENTS,
            viewport={"width": size[0], "height": size[1]},
        )  # fmt: skip
        try:
            page = browser.pages[0]
            page.set_default_timeout(seconds * 1000)
            complaints: list[str] = []
            page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on(
                "request",
                lambda r: (
                    complaints.append(f"asks {r.url}")
                    if not r.url.startswith((url, "data:", "blob:"))
                    else None
                ),
            )
            page.complaints = complaints  # type: ignore[attr-defined]
            page.goto(url)
            page.wait_for_selector("#state")
            yield page
        finally:
            browser.close()


def wait_until(true: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"after {seconds:.0f} s not yet: {what}"
        time.sleep(0.1)


def text(page: Page, ident: str) -> str:
    return page.locator(f"#{ident}").inner_text()


def occupancy_total(page: Page) -> int:
    """The integral of all occupancies, as the page shows it."""
    return int(text(page, "occupancy-total").replace(",", ""))


def run_number(page: Page) -> int:
    shown = text(page, "run-number")
    return int(shown) if shown.isdecimal() else 0


def press_start(page: Page, comment: str = "", shifter: str = "", seconds: float = 60) -> int:
    """Press Start Run; returns the number of the run once the page says that it runs."""
    before = run_number(page)
    page.fill("#comment", comment)
    page.fill("#shifter", shifter)
    page.click("#start-run")
    page.wait_for_selector("#command-answer .answer.good")
    wait_until(lambda: run_number(page) > before, "a new run", seconds)
    wait_until(lambda: "RUNNING" in text(page, "state"), "the run runs", seconds)
    return run_number(page)


def sees_growth(page: Page, seconds: float = 60) -> int:
    """Waits until the occupancy has grown twice; returns its total then."""
    first = occupancy_total(page)
    wait_until(lambda: occupancy_total(page) > first, "the occupancy grows", seconds)
    second = occupancy_total(page)
    wait_until(lambda: occupancy_total(page) > second, "the occupancy grows on", seconds)
    return occupancy_total(page)


def press_stop(page: Page, run: int, seconds: float = 60) -> None:
    """Press Stop Run; returns when the list of runs says that the run is closed."""
    page.click("#stop-run")
    page.wait_for_selector("#command-answer .answer.good")
    wait_until(lambda: re.search(r"\bclosed\b", run_row(page, run)) is not None,
               f"run {run} is closed in the list", seconds)  # fmt: skip


def run_row(page: Page, run: int) -> str:
    """The line of a run in the list, its cells parted by tabs; "" if it is not there."""
    row = page.locator(f"#run-{run}")
    return row.inner_text() if row.count() else ""


def run_files(page: Page, run: int) -> dict[str, str]:
    """Names and links of a run's files in the list."""
    links = page.locator(f"#run-{run} a.file").all()
    return {str(a.get_attribute("title")): str(a.get_attribute("href")) for a in links}


def shown_figure(page: Page, ident: str) -> dict[str, Any]:
    """What Plotly draws in a graph: number of traces, range of the first x axis."""
    found: dict[str, Any] = page.evaluate(
        """id => {
            const plot = document.querySelector("#" + id + " .js-plotly-plot");
            return {traces: plot.data.length, range: plot.layout.xaxis.range};
        }""",
        ident,
    )
    return found


def drag(page: Page, ident: str, start: float, end: float) -> None:
    """Zoom into a plot as a viewer does: drag the mouse over a share of its width."""
    box = page.locator(f"#{ident} .nsewdrag").first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], y, steps=5)
    page.mouse.up()
