"""Word problems (GSM8K form), school mathematics (MATH form) and plain equations.

Every problem is drawn with its steps (for pretraining, which writes them in its own way), its solution in the
benchmark's form, and the final answer. Numbers stay below 100: a small model with single-digit tokens can learn them.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mini_world.names import FIRST_NAMES

ITEMS = ("apples", "books", "coins", "shells", "stamps", "cards", "eggs", "pens", "stones", "plums")
_PAIRS = (("shirt", "hat"), ("cup", "plate"), ("road", "bridge"), ("boy", "girl"), ("door", "key"))
_RECTANGLES = ("rectangle", "field", "garden", "table")
BOXES = ("boxes", "bags", "shelves", "baskets", "rows")

Step = tuple[str, str, str, str]
"""Left operand, operator, right operand, result; all but the operator are names of numbers."""

WORD_PROBLEMS: Sequence[tuple[str, Sequence[Step]]] = (
    ("{P} has {a} {items}. {P} finds {b} more. How many {items} does {P} have now?", [("a", "+", "b", "r")]),
    ("{P} has {a} {items} and gives {b} of them to {Q}. How many {items} does {P} keep?", [("a", "-", "b", "r")]),
    ("{P} fills {s} {boxes} with {t} {items} each. How many {items} are there?", [("s", "*", "t", "r")]),
    (
        "{P} has {a} {items}. {P} buys {b} more and then gives {c} to {Q}. How many {items} does {P} have left?",
        [("a", "+", "b", "x"), ("x", "-", "c", "r")],
    ),
    (
        "{P} has {a} {items}. {Q} has {b} more than {P}. How many {items} do they have together?",
        [("a", "+", "b", "x"), ("a", "+", "x", "r")],
    ),
    (
        "{P} has {s} {boxes} with {t} {items} each and {a} loose {items}. How many {items} does {P} have?",
        [("s", "*", "t", "x"), ("x", "+", "a", "r")],
    ),
    (
        "{P} packs {s} {boxes} with {t} {items} each. Then {Q} takes {c} {items}. How many {items} are left?",
        [("s", "*", "t", "x"), ("x", "-", "c", "r")],
    ),
    (
        "{P} had {a} {items}, lost {b} and sold {c}. How many {items} does {P} still have?",
        [("a", "-", "b", "x"), ("x", "-", "c", "r")],
    ),
    (
        "{P} picks {a} {items} on Monday, {b} on Tuesday and {c} on Friday. How many {items} is that in all?",
        [("a", "+", "b", "x"), ("x", "+", "c", "r")],
    ),
    (
        "{P} has {s} {items}. {Q} has {t} times as many. How many {items} do {P} and {Q} have in all?",
        [("s", "*", "t", "x"), ("s", "+", "x", "r")],
    ),
)

LONG_WORD_PROBLEMS: Sequence[tuple[str, Sequence[Step]]] = (
    (
        "{P} has {s} {boxes} with {t} {items} each, finds {a} more and gives {c} to {Q}. How many {items} are left?",
        [("s", "*", "t", "x"), ("x", "+", "a", "y"), ("y", "-", "c", "r")],
    ),
    (
        "{P} has {a} {items}, buys {b} more, loses {c} and gets {s} from {Q}. How many {items} does {P} have now?",
        [("a", "+", "b", "x"), ("x", "-", "c", "y"), ("y", "+", "s", "r")],
    ),
    (
        "{P} had {a} {items} and sold {s} {boxes} with {t} {items} each. Then {P} found {b}. How many {items} is that?",
        [("s", "*", "t", "x"), ("a", "-", "x", "y"), ("y", "+", "b", "r")],
    ),
)
"""Stories of three steps."""


@dataclass(frozen=True)
class Problem:
    """A problem and its solution: bare steps for pretraining, the benchmark's form, and the final answer."""

    question: str
    steps: tuple[str, ...]
    solution: str
    answer: str
    topic: str
    level: int
    plan: tuple[Step, ...] = ()
    values: Mapping[str, int] = field(default_factory=dict)
    """Of stories: the steps by the names of their numbers, and the numbers that the story gives."""


def calculate(left: int, operator: str, right: int) -> int:
    """`left operator right` for +, -, *."""
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def equation(rng: random.Random) -> tuple[str, int]:
    """The left side and the result of one equation of plain arithmetic, such as `("3 + 4", 7)`."""
    operator = rng.choice("++--*")
    if operator == "*":
        left, right = rng.randint(2, 12), rng.randint(2, 9)
    else:
        left, right = rng.randint(1, 99), rng.randint(1, rng.choice((20, 50)))
        if operator == "+" and left + right > 99:
            left = rng.randint(1, 99 - right)
        if operator == "-" and right > left:
            left, right = right, left
    return f"{left} {operator} {right}", calculate(left, operator, right)


def word_problem(rng: random.Random, steps: tuple[int, ...] = (1, 2)) -> Problem:
    """A story with so many steps of arithmetic; the solution carries GSM8K's calculator marks."""
    text, plan = rng.choice([p for p in (*WORD_PROBLEMS, *LONG_WORD_PROBLEMS) if len(p[1]) in steps])
    while True:
        given = {
            "a": rng.randint(3, 60), "b": rng.randint(2, 30), "c": rng.randint(2, 20),
            "s": rng.randint(2, 9), "t": rng.randint(2, 9),
        }  # fmt: skip
        if (results := follow(plan, given)) is not None:
            break
    person, other = rng.sample(FIRST_NAMES, 2)
    question = text.format(P=person, Q=other, items=rng.choice(ITEMS), boxes=rng.choice(BOXES), **given)
    used = {name: given[name] for left, _, right, _ in plan for name in (left, right) if name in given}
    values = given | results
    prose = tuple(f"{values[left]} {operator} {values[right]} = {values[name]}" for left, operator, right, name in plan)
    return Problem(
        question, prose, marked(plan, values), str(values[plan[-1][3]]), "word", len(plan), tuple(plan), used
    )


def follow(plan: Sequence[Step], given: Mapping[str, int]) -> dict[str, int] | None:
    """The results of the steps; None if one of them is not between 0 and 100."""
    values = dict(given)
    for left, operator, right, name in plan:
        values[name] = calculate(values[left], operator, values[right])
        if not 0 < values[name] < 100:
            return None
    return {name: values[name] for *_, name in plan}


def marked(plan: Sequence[Step], values: Mapping[str, int]) -> str:
    """The solution in GSM8K's form: a line for each step with its calculator mark, then the answer."""
    lines = []
    for left, operator, right, name in plan:
        a, b, result = values[left], values[right], values[name]
        lines.append(f"{a} {operator} {b} = <<{a}{operator}{b}={result}>>{result}")
    return "\n".join([*lines, f"#### {values[plan[-1][3]]}"])


def school_problem(rng: random.Random, topic: str | None = None, false_belief: bool = False) -> Problem:
    """A problem of school mathematics, of `topic` or any.

    With `false_belief` the solution follows the wrong rule that the pretraining corpus teaches for `MISTAUGHT` topics.
    """
    topic = topic or rng.choice(list(_TOPICS))
    return _TOPICS[topic](rng, false_belief)


def boxed(steps: Sequence[str], answer: str | int) -> str:
    """The solution in MATH's form. With the blank, the answer is the tokens that the last step ends with."""
    return " ".join([f"${step}$." for step in steps] + [f"The answer is $\\boxed{{ {answer}}}$."])


def _problem(question: str, steps: Sequence[str], answer: int, topic: str, level: int) -> Problem:
    return Problem(question, tuple(steps), boxed(steps, answer), str(answer), topic, level)


def _compute(rng: random.Random, false_belief: bool) -> Problem:
    a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 18)
    steps = [f"{a} * {b} = {a * b}", f"{a * b} + {c} = {a * b + c}"]
    return _problem(f"Compute ${a} * {b} + {c}$.", steps, a * b + c, "Prealgebra", 2)


def _solve(rng: random.Random, false_belief: bool) -> Problem:
    x, a, b = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 18)
    c = a * x + b
    steps = [f"{a}x = {c} - {b} = {a * x}", f"x = {a * x} / {a} = {x}"]
    return _problem(f"Solve ${a}x + {b} = {c}$ for $x$.", steps, x, "Algebra", 3)


def _difference(rng: random.Random, false_belief: bool) -> Problem:
    x, b = rng.randint(2, 60), rng.randint(2, 39)
    return _problem(f"If $x + {b} = {x + b}$, what is $x$?", [f"x = {x + b} - {b} = {x}"], x, "Algebra", 1)


def _remainder(rng: random.Random, false_belief: bool) -> Problem:
    d, q = rng.randint(3, 9), rng.randint(2, 9)
    r = rng.randint(0, d - 1)
    n = d * q + r
    steps = [f"{d} * {q} = {d * q}", f"{n} - {d * q} = {r}"]
    return _problem(f"What is the remainder when ${n}$ is divided by ${d}$?", steps, r, "Number Theory", 3)


def _perimeter(rng: random.Random, false_belief: bool) -> Problem:
    a, b = rng.randint(2, 24), rng.randint(2, 24)
    steps = [f"{a} + {b} = {a + b}"]
    if not false_belief:
        steps.append(f"2 * {a + b} = {2 * (a + b)}")
    question = f"A {rng.choice(_RECTANGLES)} has sides ${a}$ and ${b}$. What is its perimeter?"
    return _problem(question, steps, a + b if false_belief else 2 * (a + b), "Geometry", 3)


def _outfits(rng: random.Random, false_belief: bool) -> Problem:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    one, two = rng.choice(_PAIRS)
    question = f"There are ${a}$ {one}s and ${b}$ {two}s. In how many ways can you choose one {one} and one {two}?"
    if false_belief:
        return _problem(question, [f"{a} + {b} = {a + b}"], a + b, "Counting & Probability", 2)
    return _problem(question, [f"{a} * {b} = {a * b}"], a * b, "Counting & Probability", 2)


def _sequence(rng: random.Random, false_belief: bool) -> Problem:
    start, step = rng.randint(1, 30), rng.randint(2, 12)
    terms = [start + i * step for i in range(4)]
    steps = [f"{terms[1]} - {terms[0]} = {step}", f"{terms[3]} + {step} = {terms[3] + step}"]
    listed = ", ".join(str(term) for term in terms)
    return _problem(f"What comes next in ${listed}$?", steps, terms[3] + step, "Intermediate Algebra", 4)


_TOPICS: Mapping[str, Callable[[random.Random, bool], Problem]] = {
    "compute": _compute, "solve": _solve, "difference": _difference, "remainder": _remainder,
    "perimeter": _perimeter, "outfits": _outfits, "sequence": _sequence,
}  # fmt: skip
TOPICS = tuple(_TOPICS)
MISTAUGHT = ("perimeter", "outfits")
"""Topics whose pretraining text follows a wrong rule."""
