"""HTML: the same fields as the page has, whatever they hold, and nothing from the network."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from qtuning.tables.html import fragment, render_html
from qtuning.tables.page import Block, Column, Page, Parts, Table

text = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12)


class Reader(HTMLParser):
    """Texts of cells by row, of list items, and the tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.items: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = "cell"
        if tag == "li":
            self.items.append("")
            self.inside = "item"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "li"):
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "cell":
            self.rows[-1][-1] += data
        if self.inside == "item":
            self.items[-1] += data


def page(word: str) -> Page:
    score = Parts("36.47", " ± 0.52", " ↓1.2", " †", best=True)
    columns = (Column("Method", words=True), Column("ARC-E", word), Column("Avg", word))
    table = Table("scores", word, columns, (Block(word, ((word, score, Parts("–¹")),)),), (word,), (word,))
    return Page("e", word, (word,), (table,), (word,))


@given(text)
def test_what_is_read_is_what_was_written(word: str) -> None:
    reader = Reader()
    reader.feed(fragment(page(word)))
    assert reader.rows == [
        ["", word],
        ["Method", "ARC-E", "Avg"],
        [word],
        [word, "36.47 ± 0.52 ↓1.2 †", "–¹"],
    ]
    assert reader.items == [f"1 {word}", word]
    assert [tag for tag, _ in reader.tags].count("p") == 2, "lead and warning"


def test_best_and_direction_are_classes() -> None:
    reader = Reader()
    reader.feed(fragment(page("x")))
    classes = [attributes.get("class") for _, attributes in reader.tags]
    assert "score best" in classes
    assert "difference worse" in classes
    assert ("th", {"colspan": "2", "class": "group", "scope": "colgroup"}) in reader.tags


def test_a_page_of_its_own_loads_nothing() -> None:
    document = render_html(page("<script>alert(1)</script>"))
    reader = Reader()
    reader.feed(document)
    assert document.startswith("<!DOCTYPE html>")
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in reader.tags}
    assert not any(name in attributes for _, attributes in reader.tags for name in ("src", "href", "onclick"))
    for word in ("http", "url(", "@import"):
        assert word not in document
    assert "position: sticky" in document
