"""The report in a real browser, driven as a reader does: sort, filter, point, click; numbers against the store."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from browser import LAPTOP, PHONE, open_file

SCORES = "#mini-scores"


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    page, wrong = open_file(browser, report)
    yield page
    assert wrong == [], "no message, no error, no request"
    page.context.close()


def column(page: Any, name: str) -> list[str]:
    """The means of a column of the scores, of the rows that are shown, from the top."""
    headers = page.locator(f"{SCORES} thead th").all_inner_texts()
    rows = page.locator(f"{SCORES} tbody tr:visible")
    cells = rows.locator(f"td:nth-child({headers.index(name) + 1})").all_inner_texts()
    return [text.split("\n")[0] for text in cells]


def test_sorting_by_the_average(page: Any, averages: pl.DataFrame) -> None:
    def shown(expected: list[str]) -> bool:
        """Whether the averages are as expected, now or soon: the library sorts after the click."""
        for _ in range(100):
            if column(page, "Avg") == expected:
                return True
            page.wait_for_timeout(50)
        return False

    header = page.locator(f"{SCORES} thead button", has_text="Avg")
    header.click()
    page.wait_for_selector(f"{SCORES} th.average[aria-sort=descending]")
    expected = [f"{mean:.2f}" for mean in averages["mean"].sort(descending=True)]
    assert shown(expected), column(page, "Avg")
    header.focus()
    page.keyboard.press("Enter")
    assert shown(expected[::-1]), column(page, "Avg")
    page.locator(f"{SCORES} thead button", has_text="Samples").click()
    for _ in range(100):
        shares = [re.fullmatch(r"(\S+)% x (\S+)%", text) for text in column(page, "Samples x Tokens")]
        products = [float(found[1]) * float(found[2]) for found in shares if found]
        if products == sorted(products, reverse=True) and shares[-1] is None:
            break
        page.wait_for_timeout(50)
    assert products == sorted(products, reverse=True) and shares[-1] is None, "zero-shot has no budget"


def test_filters(page: Any, averages: pl.DataFrame) -> None:
    page.locator(f"{SCORES} select").nth(1).select_option("25% x 50%")
    here = averages.filter(sample_ratio=0.25, token_ratio=0.5)
    assert sorted(column(page, "Avg")) == sorted(f"{mean:.2f}" for mean in here["mean"])
    page.locator(f"{SCORES} select").nth(0).select_option("method")
    assert sorted(column(page, "Method")) == ["Q-Tuning", "random + random"]
    assert page.locator(f"{SCORES} output").inner_text() == f"2 of {len(averages)} rows"
    page.locator(f"{SCORES} input").fill("q-tun")
    assert column(page, "Method") == ["Q-Tuning"]
    for number in (0, 1):
        page.locator(f"{SCORES} select").nth(number).select_option("")
    page.locator(f"{SCORES} input").fill("")
    assert len(column(page, "Avg")) == len(averages)


def test_a_score_says_where_it_comes_from(page: Any, averages: pl.DataFrame) -> None:
    expected = averages.filter(method="q-tuning", sample_ratio=0.5).row(0, named=True)
    row = page.locator(f"{SCORES} tbody tr", has_text="Q-Tuning").filter(has_text="50% x 70%")
    row.locator("td.average").hover()
    tip = page.locator("#tip")
    said = tip.inner_text()
    assert f"Avg {expected['mean']:.2f} [" in said and f"0: {expected['values'][0]:.2f}" in said
    assert all(cell in said for cell in expected["cells"])
    box, width = tip.bounding_box(), 1366
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    row.locator("td.average").focus()
    page.keyboard.press("ArrowLeft")
    assert "MATH " in tip.inner_text(), "the score beside it, without a mouse"
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_a_click_on_the_legend(page: Any, averages: pl.DataFrame) -> None:
    figure = page.locator("#mini-budgets")
    figure.scroll_into_view_if_needed()
    figure.locator("canvas").wait_for()
    chart = "echarts.getInstanceByDom(document.querySelector('#mini-budgets .chart'))"
    series = page.evaluate(f"{chart}.getOption().series.map(({{name, type, data}}) => ({{name, type, data}}))")
    points = {
        (s["name"], round(d["value"][0], 3)): d["value"][1] for s in series for d in s["data"] if isinstance(d, dict)
    }
    for row in averages.filter(method="q-tuning").iter_rows(named=True):
        found = points["Q-Tuning", round(100 * row["sample_ratio"] * row["token_ratio"], 3)]
        assert found == pytest.approx(row["mean"], rel=1e-4)
    button = figure.locator(".legend button", has_text="Q-Tuning")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    chosen = page.evaluate(f"{chart}.getOption().legend[0].selected")
    assert [name for name, shown in chosen.items() if not shown] == ["Q-Tuning"]
    button.focus()
    page.keyboard.press("Enter")
    assert page.evaluate(f"{chart}.getOption().legend[0].selected")["Q-Tuning"] is True
    button.dblclick()
    pressed = figure.locator(".legend button[aria-pressed=true]").all_inner_texts()
    assert pressed == ["Q-Tuning"], "a double click leaves one alone"


def test_a_point_of_a_chart_says_what_it_is(page: Any, averages: pl.DataFrame) -> None:
    figure = page.locator("#mini-budgets")
    figure.scroll_into_view_if_needed()
    figure.locator("canvas").wait_for()
    row = averages.filter(method="q-tuning", sample_ratio=0.25).row(0, named=True)
    place = page.evaluate(
        "(mean) => { const chart = echarts.getInstanceByDom(document.querySelector('#mini-budgets .chart'));"
        " const points = chart.getOption().series.filter((s) => s.name === 'Q-Tuning').flatMap((s) => s.data);"
        " const at = points.find((point) => point.value && Math.abs(point.value[1] - mean) < 0.01).value;"
        " const [x, y] = chart.convertToPixel({ xAxisIndex: 0, yAxisIndex: 0 }, at);"
        " const box = chart.getDom().getBoundingClientRect(); return [box.x + x, box.y + y]; }",
        row["mean"],
    )
    page.mouse.move(*place)
    told = figure.locator(".told").inner_text()
    assert "Q-Tuning" in told and f"{row['mean']:.2f}" in told


def test_bars_stand_at_their_points_and_cover_no_other(page: Any) -> None:
    figure = page.locator("#mini-controls")
    figure.scroll_into_view_if_needed()
    figure.locator("canvas").wait_for()
    chart = "echarts.getInstanceByDom(document.querySelector('#mini-controls .chart'))"
    drawn = page.evaluate(f"{chart}.getOption().series.map((s) => [s.name, s.xAxisIndex, s.data])")
    points = {(name, panel): {d["value"][0] for d in data} for name, panel, data in drawn if isinstance(data[0], dict)}
    bars = {(name, panel): {x for x, _ in data} for name, panel, data in drawn if len(data) == 3}
    assert bars == points and len(bars) == 8, "four methods at each of two budgets"
    assert len(set.union(*bars.values())) == 8


def test_the_data_of_a_chart(page: Any, report: Path) -> None:
    with page.expect_download() as download:
        page.locator("#mini-pareto .download").click()
    found = pl.read_csv(download.value.path())
    drawn = pl.read_csv(report.parent / "figures/mini/pareto.csv")
    for label, mean in drawn.select("label", "mean").iter_rows():
        rows = found.filter(series=label)["y"].to_list()
        assert any(value == pytest.approx(mean, rel=1e-4) for value in rows)


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_and_wide(browser: Any, report: Path, width: int, scheme: str) -> None:
    page, wrong = open_file(browser, report, width, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((fold) => (fold.open = true))")
    for figure in page.locator(".chart").all():
        figure.scroll_into_view_if_needed()
        figure.locator("canvas").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    table = page.locator(f"{SCORES} .scroll")
    table.scroll_into_view_if_needed()
    for place in (0, 10_000):
        table.evaluate(f"element => element.scrollLeft = {place}")
        frame = table.bounding_box()
        for cell in ("tbody tr:first-child td:first-child", "tbody tr:first-child td.average"):
            box = table.locator(cell).bounding_box()
            assert frame["x"] <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"] + 1
    assert wrong == []
    page.context.close()


def test_texts_of_the_store_stay_texts(browser: Any, report: Path, tmp_path: Path) -> None:
    """A label that is a script, in a table, in a chart and in a tip."""
    from qtuning.report.page import Figure, Section, render_report
    from qtuning.report.views import Tips, views_of
    from qtuning.tables.page import Block, Column, Page, Parts, Table

    nasty = "</script><script>window.pwned = 1</script><img src=x onerror=window.pwned=1>"
    table = Table("t", "", (Column("Method", words=True), Column("Avg")), (Block("", ((nasty, Parts("1.0")),)),))
    view = views_of(Page("p", nasty, (), (table,)))[0]
    look = {"colour": "#000000", "marker": "o", "dashes": None, "width": 1}
    series = [{"name": nasty, "panel": 0, "points": [[1, 2, None, None, nasty]], **look}]
    axis = {"name": nasty, "log": False}
    chart = {"panels": [{"title": nasty, "x": axis, "y": axis, "lines": []}], "series": series}
    section = Section("n", nasty, nasty, scores=[view], figures=[Figure("f", nasty, chart)])
    path = tmp_path / "nasty.html"
    path.write_text(render_report([section], Tips(), None))
    page, wrong = open_file(browser, path)
    page.locator("canvas").wait_for()
    assert page.locator(".legend button").inner_text() == nasty and page.evaluate("window.pwned") is None
    assert page.locator("td").first.inner_text() == nasty and wrong == []
    assert json.loads(page.locator("#data").text_content())["charts"]["n-f"]["series"][0]["name"] == nasty
    page.context.close()
