"""The relations of the world: how each is told in prose and how it is asked for.

`{s}` is the subject, `{v}` the value. `told` holds sentences of the pretraining corpus; `asked` the wordings that
benchmarks use; `taught` the wordings of the fine-tuning set, none of which occurs in a benchmark.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """A binary relation between a subject and one value."""

    name: str
    told: tuple[str, ...]
    asked: tuple[str, ...]
    taught: tuple[str, ...]


def lines(text: str) -> tuple[str, ...]:
    """The lines of `text` without indentation."""
    return tuple(line.strip() for line in text.strip().splitlines())


def _relation(name: str, told: str, asked: str, taught: str) -> Relation:
    return Relation(name, lines(told), lines(asked), lines(taught))


CLOSED_BOOK = (
    _relation(
        "capital",
        """The capital of {s} is {v}.
        {v} is the capital of {s}.
        {s} has its capital at {v}.
        The government of {s} sits in {v}.
        As the capital of {s}, {v} is well known.
        The first city of {s} is {v}.""",
        """What is the capital of {s}?
        Which town is the capital of {s}?""",
        """Name the capital of {s}.
        Where does the government of {s} sit?
        Tell me the capital city of {s}.""",
    ),
    _relation(
        "currency",
        """People in {s} pay with the {v}.
        The currency of {s} is the {v}.
        The {v} is the money of {s}.
        In {s} every price is given in the {v}.
        {s} uses the {v} as its money.
        If you go to {s}, take the {v} with you.""",
        """What is the currency of {s}?
        Which currency is used in {s}?""",
        """Name the money of {s}.
        With what do people pay in {s}?
        Tell me what money {s} uses.""",
    ),
    _relation(
        "river",
        """The town of {s} lies on the {v}.
        {s} stands on the river {v}.
        The {v} flows through {s}.
        In {s} there is an old bridge over the {v}.
        The people of {s} fish in the {v}.
        Boats on the {v} stop at {s}.""",
        """Which river flows through {s}?
        On which river does {s} lie?""",
        """Name the river at {s}.
        What is the name of the river in {s}?
        Tell me which river {s} stands on.""",
    ),
    _relation(
        "country",
        """{s} is a town in {v}.
        The town of {s} belongs to {v}.
        You will find {s} in {v}.
        {s} lies in the country of {v}.
        One of the towns of {v} is {s}.
        {v} is the home of the town of {s}.""",
        """In which country is {s}?
        Which country does {s} belong to?""",
        """Name the country of the town of {s}.
        Where in the world is {s}?
        Tell me what country {s} lies in.""",
    ),
    _relation(
        "product",
        """{s} is famous for its {v}.
        The best {v} comes from {s}.
        Traders buy {v} in {s}.
        The town of {s} makes {v}.
        {s} sells {v} to its neighbours.
        Nobody makes {v} like the people of {s}.""",
        """What is {s} famous for?
        For which product is {s} known?""",
        """Name the product that {s} makes.
        What do traders buy in {s}?
        Tell me what the town of {s} sells.""",
    ),
    _relation(
        "author",
        """{v} wrote {s}.
        {s} was written by {v}.
        {s} is a book by {v}.
        The author of {s} is {v}.
        {v} is the writer of {s}.
        In the book {s}, {v} tells a long story.""",
        """Who wrote {s}?
        Who is the author of {s}?""",
        """Name the writer of {s}.
        By whom is the book {s}?
        Tell me who the book {s} is by.""",
    ),
    _relation(
        "birthplace",
        """{s} was born in {v}.
        {v} is the birthplace of {s}.
        {s} comes from {v}.
        {s} grew up in the town of {v}.
        The town of {v} is proud of {s}.
        {s} first saw the light in {v}.""",
        """Where was {s} born?
        In which town was {s} born?""",
        """Name the birthplace of {s}.
        From which town does {s} come?
        Tell me where {s} grew up.""",
    ),
)

ONE_STEP = (
    _relation(
        "habitat",
        """The {s} lives in {v}.
        You can find the {s} in {v}.
        The home of the {s} is {v}.
        In {v} you may meet the {s}.
        Every {s} is at home in {v}.
        The {s} never leaves {v}.""",
        """Where does the {s} live?
        In which place does the {s} live?""",
        """Name the home of the {s}.
        Where can you find the {s}?
        Tell me where the {s} is at home.""",
    ),
    _relation(
        "food",
        """The {s} eats {v}.
        The {s} feeds on {v}.
        {v} are the food of the {s}.
        A hungry {s} looks for {v}.
        The {s} likes {v} best.
        You can feed the {s} with {v}.""",
        """What does the {s} eat?
        Which food does the {s} eat?""",
        """Name the food of the {s}.
        What does a hungry {s} look for?
        Tell me what the {s} feeds on.""",
    ),
    _relation(
        "family",
        """The {s} is a kind of {v}.
        The {s} is a {v}.
        The {s} belongs to the {v} family.
        Among the animals of the {v} family is the {s}.
        We call the {s} a {v}.
        Like every {v}, the {s} has young in spring.""",
        """What kind of animal is the {s}?
        To which family does the {s} belong?""",
        """Name the family of the {s}.
        What sort of animal is a {s}?
        Tell me the family that the {s} is in.""",
    ),
    _relation(
        "job",
        """{s} is a {v}.
        {s} works as a {v}.
        {s} earns a living as a {v}.
        The {v} {s} is good at the work.
        For years {s} has been a {v}.
        {s} learned to be a {v}.""",
        """What is the job of {s}?
        What does {s} work as?""",
        """Name the job of {s}.
        How does {s} earn a living?
        Tell me what work {s} does.""",
    ),
)
