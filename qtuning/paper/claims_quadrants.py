"""The claims of section 4.2: which quadrants lose samples, and tokens (tables 4, 15), and by which score (table 5)."""

from collections.abc import Sequence

from qtuning.paper.judge import Check, Claims, Judgement, above, most, together, verdict_of
from qtuning.paper.published import MODEL_LABEL, PaperRow, Published
from qtuning.paper.recompute import Scores, recompute
from qtuning.statistics.summary import AVERAGE

CLAIMS = Claims()

Block = dict[str, PaperRow]
"""The rows of one model and budget of tables 4 and 15, by which quadrants lose samples and tokens."""

KEEPS_Q1, NO_TOKENS, BOTH = (
    "ticks:2;inferred;sample:q3;token:q2",
    "ticks:2;inferred;sample:q1+q3;token:none",
    "ticks:4;sample:q1+q3;token:q2+q4",
)
METHOD = "ticks:3;sample:q1+q3;token:q2"


def quadrant_blocks(published: Published) -> list[Block]:
    """Tables 4 and 15: two blocks and four."""
    blocks: dict[tuple[int, str, str], Block] = {}
    for row in (*published.rows(4), *published.rows(15)):
        blocks.setdefault((row.table, row.model, row.budget), {})[row.variant] = row
    return list(blocks.values())


def first_of_block(scores: Scores, published: Published, block: Block, variant: str) -> Check:
    """Whether a row has the highest average of its block."""
    others = [row for name, row in block.items() if name != variant]
    return together(above(recompute(scores, published, block[variant], rival=[row])) for row in others)


def last_of_block(scores: Scores, published: Published, block: Block, variant: str) -> Check:
    """Whether a row has the lowest average of its block."""
    others = [row for name, row in block.items() if name != variant]
    return together(above(recompute(scores, published, row, rival=[block[variant]])) for row in others)


def _names(blocks: Sequence[Block], checks: Sequence[Check], wanted: Check) -> str:
    """The blocks with a certain answer: `Mistral-7B 25x50`."""
    rows = [next(iter(block.values())) for block, check in zip(blocks, checks, strict=True) if check is wanted]
    return ", ".join(f"{MODEL_LABEL[row.model]} {row.budget}" for row in rows)


@CLAIMS("sec. 4.2", "Keeping Q1 always gives the lowest average")
def keeping_q1_is_lowest(scores: Scores, published: Published) -> Judgement:
    """In each block; which row keeps Q1 is inferred."""
    blocks = quadrant_blocks(published)
    checks = [last_of_block(scores, published, block, KEEPS_Q1) for block in blocks]
    not_there = _names(blocks, checks, False)
    text = f"lowest in {checks.count(True)} of {len(checks)} blocks of tables 4 and 15"
    return verdict_of(checks, f"{text}, not in {not_there}" if not_there else text)


@CLAIMS("sec. 4.2", "And it lowers GSM8K and SQuAD")
def keeping_q1_hurts(scores: Scores, published: Published) -> Judgement:
    """In each block: below Q-Tuning itself; which row keeps Q1 is inferred."""
    found = [
        recompute(scores, published, block[METHOD], benchmark, [block[KEEPS_Q1]])
        for block in quadrant_blocks(published)
        for benchmark in ("gsm8k", "squad")
    ]
    checks = [above(each) for each in found]
    against = [each.text for each, check in zip(found, checks, strict=True) if check is False]
    return verdict_of(checks, f"Q-Tuning is above it in {checks.count(True)} of {len(checks)}", *against)


@CLAIMS("sec. 4.2", "Pruning tokens of Q4 is generally harmful")
def pruning_q4_harms(scores: Scores, published: Published) -> Judgement:
    """Q-Tuning against the row that prunes tokens of Q2 and Q4: more than half of the averages."""
    found = [recompute(scores, published, block[METHOD], rival=[block[BOTH]]) for block in quadrant_blocks(published)]
    checks = [above(each) for each in found]
    against = [each.text for each, check in zip(found, checks, strict=True) if check is False]
    return verdict_of([most(checks)], f"worse in {checks.count(True)} of {len(checks)} averages", *against)


@CLAIMS("sec. 4.2", "Pruning tokens of Q2 consistently helps")
def pruning_q2_helps(scores: Scores, published: Published) -> Judgement:
    """The only pair is in table 4, and inferred: the average and each benchmark."""
    (block,) = [block for block in quadrant_blocks(published) if NO_TOKENS in block]
    found = [
        recompute(scores, published, block[METHOD], benchmark, [block[NO_TOKENS]])
        for benchmark in (AVERAGE, *published.benchmarks(4))
    ]
    checks = [above(each) for each in found]
    against = [each.text for each, check in zip(found, checks, strict=True) if check is False]
    return verdict_of(checks, "one pair only", found[0].text, *against)


@CLAIMS("sec. 4.2", "Pruning Q1 and Q3 samples and Q2 tokens is the best setting")
def method_is_best(scores: Scores, published: Published) -> Judgement:
    """The highest average of each block."""
    blocks = quadrant_blocks(published)
    checks = [first_of_block(scores, published, block, METHOD) for block in blocks]
    not_there = _names(blocks, checks, False)
    text = f"the best in {checks.count(True)} of {len(checks)} blocks of tables 4 and 15"
    return verdict_of(checks, f"{text}, not in {not_there}" if not_there else text)


@CLAIMS("table 5", "Neighbour-aware PPL has the best average")
def neighbours_help(scores: Scores, published: Published) -> Judgement:
    """Against each other row; which benchmarks others lead is told."""
    rows = published.rows(5)
    (mine,) = [row for row in rows if row.q_tuning]
    others = [row for row in rows if row is not mine]
    found = [recompute(scores, published, mine, rival=[row]) for row in others]
    single = [recompute(scores, published, mine, name, others) for name in published.benchmarks(5)]
    told = (each.text for each in (*found, *(one for one in single if one.sign == -1)))
    return verdict_of([above(each) for each in found], *told)
