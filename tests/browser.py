"""Chromium, as tests and pictures drive it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LAPTOP, PHONE = 1366, 390
"""Widths in pixels."""
SIZES = {LAPTOP: {"width": LAPTOP, "height": 768}, PHONE: {"width": PHONE, "height": 844}}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""Debian's package, or one that is installed otherwise; Playwright's own download is not asked for."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser of Playwright's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


def open_page(
    browser: Any, url: str, width: int = LAPTOP, scheme: str = "light", **options: Any
) -> tuple[Any, list[str]]:
    """The page in a window of its own, and a growing list of what it should not have done.

    That is: a message on the console, an error, a request to anything but the page's own server or file. A phone has a
    touch screen. scheme: light or dark.
    """
    phone = {"has_touch": width < 500, "is_mobile": width < 500}
    page = browser.new_context(viewport=SIZES[width], color_scheme=scheme, **phone, **options).new_page()
    wrong: list[str] = []
    own = url if url.startswith("file:") else url[: url.index("/", len("http://")) + 1]
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(own) else None)
    page.goto(url)
    return page, wrong


def open_file(browser: Any, path: Any, width: int = LAPTOP, **options: Any) -> tuple[Any, list[str]]:
    """`open_page` of a page that this package wrote, once it is drawn."""
    page, wrong = open_page(browser, path.as_uri(), width, **options)
    page.wait_for_selector("body[data-ready]")
    return page, wrong
