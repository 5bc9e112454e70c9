"""LaTeX: whatever a label or a message holds, the fragment compiles and shows the same fields."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtuning.tables.latex import escape, render_latex
from qtuning.tables.page import Block, Column, Page, Parts, Table

NASTY = r"50% of_x & {y} #1 $z$ ~ ^ \end{table} \\ <a> |b| `c' 'd' -- é ± ↑ – 中 😀"
COMMANDS = {
    "textbackslash",
    "textasciicircum",
    "textasciitilde",
    "textless",
    "textgreater",
    "textbar",
    "textquotedbl",
    "textquotesingle",
    "textasciigrave",
    "ldots",
    "pm",
    "textsection",
    "uparrow",
    "downarrow",
    "textdagger",
    "textdaggerdbl",
    "bullet",
    "times",
    "textsuperscript",
}


def page(rows: int = 3, groups: tuple[str, ...] = ("A_1", "B&2"), blocks: int = 2) -> Page:
    columns = (
        Column("Method", words=True),
        *(Column(name, group) for group in groups for name in ("ARC-E", "ARC-C", "Avg")),
    )
    score = Parts("36.47", " ± 0.52", " ↑1.2", " †‡", best=True)
    fields: tuple[str | Parts, ...] = (NASTY, *([score, Parts("–¹²"), Parts("1.00")] * len(groups)))
    table = Table(
        "scores",
        "",
        columns,
        tuple(Block(f"Block {n} 50%", (fields,) * rows) for n in range(blocks)),
        (NASTY,),
        (NASTY,),
    )
    return Page("exp_1", NASTY, (), (table,), (NASTY,))


@given(st.text(max_size=30))
def test_no_text_is_read_as_a_command(text: str) -> None:
    escaped = escape(text)
    assert "\n" not in escaped
    # what remains after the commands and the escaped signs are taken out is harmless
    rest = re.sub(r"\\([A-Za-z]+)", lambda match: "" if match[1] in COMMANDS else match[0], escaped)
    rest = re.sub(r"\\[{}#$%&_]", "", rest)
    rest = re.sub(r"\$\$", "", rest)
    assert not set(rest) & set("\\#$%&_^~<>\"'`|"), rest
    assert re.sub(r"\{[-0-9]*\}", "", rest).count("{") == 0
    assert all(character <= "~" or "À" <= character <= "ÿ" for character in rest)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("12.5%", r"12.5\%"),
        ("a_b", r"a\_b"),
        ("x\ny", "x y"),
        ("–¹²", r"--\textsuperscript{12}"),
        ("±1", r"$\pm$1"),
        ("--x", "{-}{-}x"),
        ("é", "é"),
        ("中", "[U+4E2D]"),
        ("\\", r"\textbackslash{}"),
    ],
)
def test_escaped(text: str, wanted: str) -> None:
    assert escape(text) == wanted


def body(fragment: str) -> list[list[list[str]]]:
    """The rows of each tabular, as lists of fields; headings over several columns are left out."""
    tables = []
    for tabular in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", fragment, flags=re.DOTALL):
        rows = [line[: -len(r" \\")] for line in tabular.splitlines() if line.endswith(r" \\")]
        tables.append([re.split(r"(?<!\\) & ", row) for row in rows if not row.startswith(r"\multicolumn")])
    return tables


def test_structure() -> None:
    fragment = "\n".join(line for line in render_latex(page()).splitlines() if not line.startswith("%"))
    begun, ended = re.findall(r"\\begin\{(\w+)\}", fragment), re.findall(r"\\end\{(\w+)\}", fragment)
    assert sorted(begun) == sorted(ended)
    assert begun.count("table") == 1
    plain = re.sub(r"\\[{}]", "", fragment)
    assert plain.count("{") == plain.count("}")
    (rows,) = body(fragment)
    # the heading over the groups starts with an empty field over the words
    assert [len(row) for row in rows] == [7] * 7
    assert rows[1][1:3] == [
        r"\textbf{36.47}{\tiny $\pm$0.52 $\uparrow$1.2}\textsuperscript{\textdagger{}\textdaggerdbl{}}",
        r"--\textsuperscript{12}",
    ]
    for rule in ("toprule", "midrule", "bottomrule", "cmidrule(lr){2-4}", "cmidrule(lr){5-7}"):
        assert f"\\{rule}" in fragment


def test_a_long_and_wide_table_is_one_float_that_is_made_to_fit() -> None:
    fragment = render_latex(page(rows=120, groups=("A", "B", "C", "D"), blocks=2))
    (rows,) = body(fragment)
    assert [len(row) for row in rows] == [13] * 241
    assert re.findall(r"\\label\{(.*?)\}", fragment) == ["tab:exp-1-scores"]
    # its notes have no room below it, and follow as text
    assert fragment.index(r"\end{table}") < fragment.index(r"\textit{Notes on ")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex with booktabs and graphicx")
def test_compiles(tmp_path: Path) -> None:
    (tmp_path / "fragment.tex").write_text(render_latex(page(rows=30, groups=("A", "B", "C", "D"), blocks=3)))
    packages = r"\usepackage[T1]{fontenc}\usepackage{textcomp,booktabs,graphicx}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{fragment.tex}}\end{{document}}"
    (tmp_path / "document.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert b"Float too large" not in done.stdout
