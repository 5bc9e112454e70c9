"""Questions of two steps: two relations in a row, told, asked and explained. See `relations.py` for the wordings."""

from dataclasses import dataclass

from mini_world.relations import lines


@dataclass(frozen=True)
class Composition:
    """Two relations in a row: `first` leads from the subject to a middle value, `second` from there to the answer.

    `why` explains the two steps; `{m}` is the middle value.
    """

    name: str
    first: str
    second: str
    told: tuple[str, ...]
    asked: tuple[str, ...]
    taught: tuple[str, ...]
    why: str


def _composition(name: str, first: str, second: str, told: str, asked: str, taught: str, why: str) -> Composition:
    return Composition(name, first, second, lines(told), lines(asked), lines(taught), why)


TWO_STEP = (
    _composition(
        "weather", "habitat", "weather",
        """Where the {s} lives the weather is {v}.
        The {s} is used to weather that is {v}.""",
        """How is the weather where the {s} lives?""",
        """Tell me what weather the {s} is used to.
        Describe the weather around the {s}.""",
        "The {s} lives in {m}, and the weather there is {v}.",
    ),
    _composition(
        "ground", "habitat", "ground",
        """Where the {s} lives the ground is {v}.
        The {s} walks on {v}.""",
        """What is the ground where the {s} lives?""",
        """Tell me what the {s} walks on.
        Name what is under the feet of the {s}.""",
        "The {s} lives in {m}, and the ground there is {v}.",
    ),
    _composition(
        "cover", "family", "cover",
        """The body of the {s} is covered with {v}.
        The {s} is proud of its {v}.""",
        """What covers the body of the {s}?""",
        """Tell me what the {s} is covered with.
        Name what is on the body of the {s}.""",
        "The {s} is a {m}, and a {m} has {v}.",
    ),
    _composition(
        "motion", "family", "motion",
        """The {s} can {v}.
        To get around, the {s} will {v}.""",
        """How does the {s} move?""",
        """Tell me how the {s} gets around.
        Describe the way the {s} moves.""",
        "The {s} is a {m}, and a {m} can {v}.",
    ),
    _composition(
        "colour", "food", "colour",
        """The food of the {s} is {v}.
        The {s} eats things that are {v}.""",
        """Which colour is the food of the {s}?""",
        """Tell me the colour of what the {s} eats.
        Name the colour of the food that the {s} looks for.""",
        "The {s} eats {m}, and they are {v}.",
    ),
    _composition(
        "tool", "job", "tool",
        """{s} works with a {v}.
        {s} owns a {v}.""",
        """Which tool does {s} use at work?""",
        """Tell me what tool {s} needs.
        Name the tool that {s} works with.""",
        "{s} is a {m}, and a {m} works with a {v}.",
    ),
)  # fmt: skip
