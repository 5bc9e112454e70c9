"""Names -> pruners: files beside the user, entry points, what is refused and how it is said."""

import importlib
import itertools
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qtuning.errors import UserError
from qtuning.experiment.lookup import bind_options, find_pruner, kinds_of
from qtuning.experiment.registry import SAMPLE_PRUNERS, TOKEN_PRUNERS
from qtuning.pruners.base import (
    Budget,
    Candidates,
    keep_prunable,
)
from qtuning.pruners.plugin import pruner
from qtuning.train.seeding import generator

BATCH = Candidates(torch.tensor([4, 1, 7, 2]), torch.tensor([3, 1, 2, 2]))
BUDGET = Budget.of(0.5, 0.5, 4, 8)
SAMPLE, TOKEN = SAMPLE_PRUNERS["random"], TOKEN_PRUNERS["random"]
COUNTER = itertools.count()

File = Callable[..., str]

PREAMBLE = """
    from dataclasses import dataclass
    from typing import Annotated, Literal

    from pydantic import Field

    from qtuning.pruners.base import keep_first, keep_prunable
    from qtuning.pruners.plugin import pruner
"""
PLAIN = """
def plain(candidates, budget, rng):
    return keep_first(candidates.numbers.argsort(), budget.samples)
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> File:
    """file(text) -> the name of a module of that text in the current directory, which is not on sys.path yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path and Path(path).exists()])

    def write(text: str, preamble: str = PREAMBLE) -> str:
        name = f"user_pruners_{next(COUNTER)}"
        Path(f"{name}.py").write_text(textwrap.dedent(preamble) + textwrap.dedent(text))
        importlib.invalidate_caches()
        return name

    return write


def refusal(name: str, kind: Any = "sample") -> str:
    with pytest.raises(UserError) as error:
        find_pruner(name, kind)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_built_in_names_are_themselves() -> None:
    assert find_pruner("q-tuning", "sample") is SAMPLE_PRUNERS["q-tuning"]
    assert find_pruner("q-tuning", "token") is TOKEN_PRUNERS["q-tuning"]
    assert (kinds_of("random"), kinds_of("longest"), kinds_of("ppl")) == (["sample", "token"], ["sample"], ["token"])


def test_built_in_names_need_no_torch() -> None:
    code = "import sys; from qtuning.experiment import lookup; lookup.find_pruner('ppl', 'token'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "qtuning.experiment.registry" in loaded and "torch" not in loaded


def test_file_beside_the_user(file: File) -> None:
    name = f"{file(PLAIN)}:plain"
    info = find_pruner(name, "sample")
    assert (info.name, info.function, info.label) == (name, name, "plain")
    assert (info.scope, info.needs, info.budget) == ("batch", {"scores"}, "asked")
    assert find_pruner(name, "sample") is info and kinds_of(name) == ["sample"]
    assert bind_options(info, {}, "sample")(BATCH, BUDGET, generator(0)).kept.tolist() == [False, True, False, True]


def test_file_beside_the_user_is_found_by_console_scripts(tmp_path: Path) -> None:
    """Snakemake's rules call `qtuning`, whose sys.path does not begin with the current directory."""
    (tmp_path / "beside.py").write_text("def f(candidates, selection, budget, rng): ...\n")
    code = (
        "import os, sys; sys.path = [p for p in sys.path if p not in ('', os.getcwd())]\n"
        "from qtuning.experiment.lookup import find_pruner; print(find_pruner('beside:f', 'token').label)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("f\n", 0), done.stderr


def test_scope_needs_and_options(file: File) -> None:
    module = file("""
        @pruner(scope="epoch", needs=("losses", "scores"))
        def keep(candidates, budget, rng, *, share: Annotated[float, Field(ge=0, le=1)] = 0.5,
                 lambda_: int = 2, side: Literal["low", "high"] = "low"):
            selection = keep_prunable(candidates.lengths > 0)
            selection.log.update(share=share, lambda_=lambda_, side=float(side == "high"))
            return selection
    """)
    info = find_pruner(f"{module}:keep", "sample")
    assert (info.scope, info.needs) == ("epoch", {"losses", "scores"})
    assert info.options().model_dump(by_alias=True) == {"share": 0.5, "lambda": 2, "side": "low"}
    log = bind_options(info, {"lambda": 3, "side": "high"}, "sample")(BATCH, BUDGET, generator(0)).log
    assert log == {"share": 0.5, "lambda_": 3, "side": 1.0}
    for options, message in (
        ({"share": 1.5}, "options: share = 1.5: input should be less than or equal to 1"),
        ({"sahre": 0.1}, "options: sahre: unknown key; did you mean share?"),
        ({"side": "left"}, "options: side = 'left': input should be 'low' or 'high'"),
    ):
        with pytest.raises(UserError, match="keep") as error:
            bind_options(info, options, "sample")
        assert message in str(error.value)


@pytest.mark.parametrize("future", [False, True])
def test_class_is_made_with_its_options_and_called_without(file: File, future: bool) -> None:
    """Of a frozen dataclass, also where annotations are strings, and where some cannot be evaluated at run time."""
    text = """
        @pruner(needs=())
        @dataclass(frozen=True)
        class Ends:
            first: bool = True
            at_most: int | None = None

            def __call__(self, candidates, selection, budget, rng):
                mask = selection.kept[candidates.owner]
                chosen = mask.nonzero().flatten()
                mask[(chosen if self.first else chosen.flip(0))[self.at_most or budget.tokens :]] = False
                return mask

        def annotated(candidates: "Nowhere", budget: "Nowhere", rng: "Nowhere", *, share: "float" = 1) -> "Nowhere": ...
    """
    module = file(text, "from __future__ import annotations\n" + textwrap.dedent(PREAMBLE) if future else PREAMBLE)
    info = find_pruner(f"{module}:Ends", "token")
    selection = keep_prunable(torch.tensor([True, False, True, False]))
    for options, expected in (
        ({}, [1, 1, 0, 0, 0, 0, 0, 0]),
        ({"first": False, "at_most": 3}, [0, 0, 1, 0, 1, 1, 0, 0]),
    ):
        assert bind_options(info, options, "token")(BATCH, selection, BUDGET, generator(0)).int().tolist() == expected
    assert list(find_pruner(f"{module}:annotated", "sample").options.model_fields) == ["share"]


CALLING = """
    import math
    import os
    from math import tau, e as euler

    SCALE = 2.0
    TABLE = {}
    TABLE["a"] = 1
    UNUSED = 3

    def helper(values):
        'What it does.'
        return values * SCALE + TABLE["a"]

    def other(values):
        return values + UNUSED + math.pi + tau

    class Base:
        'A class with a helper.'
        def rank(self, candidates):
            # a comment
            return helper(candidates.numbers) + euler

    @pruner(scope="batch", needs=())
    class Mine(Base):
        def __call__(self, candidates, budget, rng):
            return keep_first(self.rank(candidates).argsort(), budget.samples)

    if __name__ == "__main__":
        print(Mine)
"""


def test_version_is_that_of_the_code(file: File) -> None:
    """A re-export follows the file it comes from; what wraps a pruner in another file counts with it."""
    one, same, other = file(PLAIN), file(PLAIN), file(PLAIN.replace("argsort()", "argsort(descending=True)"))
    again = file(f"from {one} import plain")
    first, second, third, fourth = (find_pruner(f"{m}:plain", "sample").version for m in (one, same, other, again))
    assert first == second == fourth != third
    assert first.startswith("sha256:") and len(first) == len("sha256:") + 8
    wrap = f"import functools\nfrom {one} import plain as inner\n\n@functools.wraps(inner)\n"
    wrap += "def plain(candidates, budget, rng):\n    return inner(candidates, budget, {})\n"
    wrapped = [find_pruner(f"{file(wrap.format(third))}:plain", "sample").version for third in ("rng", "None")]
    assert len({first, *wrapped}) == 3


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("# a comment", "# another comment", False),
        ("'What it does.'", "'What it does, told better.'", False),
        ("'A class with a helper.'", "", False),
        ("UNUSED = 3", "UNUSED = 4", False),
        ("math.pi", "math.e", False),
        ("import math\n", "import math as m\n", False),
        ("import tau, e as", "import pi as tau, e as", False),
        ("print(Mine)", "print(Base)", False),
        ("values * SCALE", "values  *  (SCALE)", False),
        ("SCALE = 2.0", "SCALE = 2.5", True),
        ('TABLE["a"] = 1', 'TABLE["a"] = 2', True),
        ("UNUSED = 3", "UNUSED = 3\n    TABLE.update(a=4)", True),
        ("values * SCALE", "values / SCALE", True),
        ("e as euler", "pi as euler", True),
        ("Mine(Base)", "Mine(Base, object)", True),
        ("needs=()", 'needs=("scores",)', True),
        ("def helper(values)", "def helper(values, more=1)", True),
        ("+ euler", "+ euler + len(globals())", True),
    ],
)
def test_version_ignores_what_decides_nothing(file: File, old: str, new: str, changes: bool) -> None:
    assert old in CALLING
    texts = CALLING, CALLING.replace(old, new)
    before, after = (find_pruner(f"{file(text)}:Mine", "sample").version for text in texts)
    assert (before != after) == changes


def test_version_of_code_that_finds_names_by_texts_is_that_of_the_file(file: File) -> None:
    blind = CALLING.replace("+ euler", "+ globals()['UNUSED']")
    one, other = (find_pruner(f"{file(text)}:Mine", "sample").version for text in (blind, blind.replace("= 3", "= 4")))
    assert one != other


def test_entry_points_of_installed_packages(file: File, tmp_path: Path) -> None:
    module = file(PLAIN + "\n\ndef tokens(candidates, selection, budget, rng): ...\n")
    package = tmp_path / "offered-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        f"[qtuning.sample_pruners]\nlowest-{module} = {module}:plain\nrandom = {module}:plain\n"
        f"[qtuning.token_pruners]\nlowest-{module} = {module}:tokens\n"
    )
    sys.path.append(str(tmp_path))
    name = f"lowest-{module}"
    assert kinds_of(name) == ["sample", "token"]
    info = find_pruner(name, "sample")
    assert (info.name, info.function, info.label) == (name, f"{module}:plain", "plain")
    assert find_pruner("random", "sample") is SAMPLE_PRUNERS["random"], "built-in names stay what they are"
    assert f"did you mean {name}?" in refusal(f"lowst-{module}")


def test_unknown_names_say_what_there_is() -> None:
    message = refusal("longst")
    assert "'longst': unknown sample pruner; did you mean longest?" in message and "module:attribute" in message
    assert "it is a token pruner" in refusal("sparsevlm")
    with pytest.raises(UserError, match=r"unknown pruner; did you mean sparsevlm\?"):
        kinds_of("sparsvlm")


@pytest.mark.parametrize(
    ("text", "attribute", "messages"),
    [
        ("import nowhere_to_be_found", "f", ["cannot be imported", "No module named 'nowhere_to_be_found'", "line "]),
        ("def f(:\n    pass", "f", ["cannot be imported: SyntaxError"]),
        ("raise SystemExit(3)", "f", ["cannot be imported: SystemExit: 3"]),
        (PLAIN, "plian", ["has no 'plian'; did you mean plain?"]),
        ("f = 3", "f", ["no function and no class but of type int"]),
        ("def f(candidates, selection, budget, rng): ...", "f", ["is a token pruner", "(candidates, budget, rng)"]),
        ("def f(candidates, budget): ...", "f", ["takes (candidates, budget), but a sample pruner", "after a *"]),
        ("def f(budget, candidates, rng): ...", "f", ["takes (budget, candidates, rng), but"]),
        ("def f(candidates, budget, rng, share: float = 0.5): ...", "f", ["options after a *"]),
        ("class F: ...", "F", ["takes (), but"]),
        ("def f(candidates, budget, rng, *, share=0.5): ...", "f", ["option share: needs an annotation and a default"]),
        ("def f(candidates, budget, rng, *, share: float): ...", "f", ["option share: needs an annotation"]),
        (
            "def f(candidates, budget, rng, *, share: float = 'x'): ...",
            "f",
            ["share = 'x': input should be a v"],
        ),
        ("def f(candidates, budget, rng, *, share: 'floot' = 1): ...", "f", ["option share", "'floot' is not defined"]),
        ("class T: ...\ndef f(candidates, budget, rng, *, t: T = T()): ...", "f", ["option t: its type is none that"]),
        ("def f(candidates, budget, rng, *, updates: int = 1): ...", "f", ["option updates: this name is taken"]),
        ("def f(candidates, budget, rng, *, needs: int = 1): ...", "f", ["option needs: this name is taken"]),
        (
            "@pruner(needs=('score',))\ndef f(candidates, budget, rng): ...",
            "f",
            ["'score': unknown; did you mean s"],
        ),
        ("@pruner(scope='update')\ndef f(candidates, budget, rng): ...", "f", ["must be batch, epoch or once"]),
        ("@pruner(needs=('attention',))\ndef f(candidates, budget, rng): ...", "f", ["an option layer: int = 2"]),
    ],
)
def test_unusable_files_are_refused_in_one_line(file: File, text: str, attribute: str, messages: list[str]) -> None:
    place = f"{file(text)}:{attribute}"
    message = refusal(place)
    assert all(part in message for part in [*messages, place]), message


def test_token_pruners_work_on_batches(file: File) -> None:
    module = file("@pruner(scope='epoch')\ndef f(candidates, selection, budget, rng): ...\n" + PLAIN)
    assert "a token pruner works on batches" in refusal(f"{module}:f", "token")
    assert "is a sample pruner by its parameters" in refusal(f"{module}:plain", "token")


def test_missing_file_says_so(file: File) -> None:
    assert "No module named 'not_there'" in refusal("not_there:f")


def test_class_that_refuses_its_options(file: File) -> None:
    module = file("""
        class Picky:
            def __init__(self, low: int = 0, high: int = 1) -> None:
                if low > high:
                    raise ValueError("low is above high")

            def __call__(self, candidates, budget, rng):
                return keep_first(candidates.numbers, budget.samples)
    """)
    info = find_pruner(f"{module}:Picky", "sample")
    assert bind_options(info, {"high": 2}, "sample")
    with pytest.raises(UserError, match=r"cannot be made .*: ValueError: low is above high \(user_.*line"):
        bind_options(info, {"low": 2}, "sample")


def test_declaration_leaves_the_function_as_it_is() -> None:
    def f() -> int:
        return 3

    assert pruner(scope="epoch", needs=())(f) is f and f() == 3


def test_options_survive_json() -> None:
    """A cell's configuration is JSON: what an option is after a round trip is what the pruner gets."""
    info = SAMPLE_PRUNERS["infobatch-original"]
    written = json.loads(
        json.dumps(info.options.model_validate({"anneal": 0.5}).model_dump(mode="json", by_alias=True))
    )
    assert bind_options(info, written, "sample").keywords == {"prune_at_most": 0.75, "anneal": 0.5}  # type: ignore[attr-defined]
