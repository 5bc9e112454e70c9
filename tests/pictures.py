"""The screenshots of docs/: report, explorer and Trackio, at the width of a laptop and of a phone, light and dark.

`make pictures` takes them. The report is that of docs/example; explorer and Trackio show the cells of `make run`.
"""

import io
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from browser import LAPTOP, PHONE, chromium, open_page
from PIL import Image
from trackio_server import trackio_server

DOCS = Path(__file__).parents[1] / "docs"
WINDOWS = {"laptop": (LAPTOP, 860), "phone": (PHONE, 844)}
SAMPLE = 278
"""A sum with an error in it, of which Q-Tuning prunes part of the answer."""


def main(results: Path) -> None:
    """Write docs/{report,explore,tracking}/{laptop,phone}-{light,dark}.png."""
    with tempfile.TemporaryDirectory() as made, chromium() as browser:
        copy = Path(made) / "results"
        copy.mkdir()
        for part in ("cells", "models", "train_sets", "configurations", *(p.name for p in results.glob("*.parquet"))):
            (copy / part).symlink_to((results / part).resolve())
        example = ("--store", str(DOCS / "example/store"), "--out", made)
        qtuning("report", "mini", "mini-controls", "mini-replay", *example)
        take(browser, "report", Path(made, "report.html").as_uri(), {"light": verdict, "dark": figures})
        qtuning("explore", "mini", "--results", str(copy), "--out", made)
        take(browser, "explore", Path(made, "mini.html").as_uri(), {"light": plane, "dark": sample})
        qtuning("replay", "mini", "--results", str(copy), "--tracking", "trackio")
        with trackio_server(copy) as url:
            runs = ",".join(quote(path.name) for path in sorted(copy.glob("cells/mini-mini-*-25x50-s0-*")))
            what = f"smoothing=20&metric_filter={quote('^loss$|^score/')}&runs={runs}"
            take(browser, "tracking", f"{url}?project=qtuning&{what}", dict.fromkeys(("light", "dark"), curves))


def qtuning(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "qtuning", *arguments], check=True)


def take(browser: Any, name: str, url: str, views: Mapping[str, Callable[[Any], None]]) -> None:
    """The four pictures of a page. views: by scheme, what leads to the place that is shown."""
    for device, (width, height) in WINDOWS.items():
        for scheme, view in views.items():
            page, wrong = open_page(browser, url, width, scheme)
            page.set_viewport_size({"width": width, "height": height})
            page.set_default_timeout(300_000)
            view(page)
            page.wait_for_timeout(1000)
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            path = DOCS / name / f"{device}-{scheme}.png"
            path.parent.mkdir(exist_ok=True)
            # a palette takes a third of the bytes; MAXCOVERAGE keeps rare colours, as those of points
            small = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
            small.save(path, optimize=True)
            assert not wrong, wrong
            print(path, path.stat().st_size // 1000, "kB")
            page.context.close()


def verdict(page: Any) -> None:
    """The top of the report; on a laptop with what a score says."""
    page.wait_for_selector("body[data-ready]")
    if page.viewport_size["width"] == LAPTOP:
        scores = page.locator("#mini-scores")
        scores.locator("select").nth(1).select_option("50% x 70%")
        scores.locator("tbody tr", has_text="Q-Tuning").locator("td.average:visible").hover()


def figures(page: Any) -> None:
    """The report's curves, one of them taken away."""
    page.wait_for_selector("body[data-ready]")
    figure = page.locator("#mini-budgets")
    figure.scroll_into_view_if_needed()
    figure.locator("canvas").wait_for()
    figure.locator(".legend button", has_text="adversary").click()
    page.evaluate("document.querySelector('#mini-figures').scrollIntoView()")


def plane(page: Any) -> None:
    page.wait_for_selector("body[data-ready]")
    open_sample(page)
    page.evaluate("scrollTo(0, 0)")


def sample(page: Any) -> None:
    """A sample as two methods decided, and a token of it."""
    page.wait_for_selector("body[data-ready]")
    page.select_option("#colour", "fate")
    open_sample(page)
    page.locator("article[data-line='0'] .tokens").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    if page.viewport_size["width"] == LAPTOP:
        page.evaluate("scrollTo(0, 0)")


def open_sample(page: Any) -> None:
    page.eval_on_selector("#update", "e => { e.value = 500; e.dispatchEvent(new Event('input')) }")
    while not page.locator(f"#list [data-sample='{SAMPLE}']").count():
        page.click("#more")
    page.locator(f"#list [data-sample='{SAMPLE}']").click()
    page.get_by_role("heading", name=f"Sample {SAMPLE}", exact=True).wait_for()


def curves(page: Any) -> None:
    """Trackio with the runs of one budget and seed."""
    page.locator("[data-metric] canvas").first.wait_for()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results"))
