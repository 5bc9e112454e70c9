"""All claims, put to the paper's own numbers and to our runs where they can judge them."""

from dataclasses import dataclass

from qtuning.paper import claims_appendix, claims_baselines, claims_quadrants, claims_results, claims_v1
from qtuning.paper.judge import Judgement
from qtuning.paper.published import Published
from qtuning.paper.recompute import OurScores

_MODULES = (claims_results, claims_baselines, claims_quadrants, claims_appendix, claims_v1)
CLAIMS = tuple(claim for module in _MODULES for claim in module.CLAIMS)
"""The claims of the second version in the order of the paper, then ten about the first."""


@dataclass(frozen=True)
class Finding:
    """A claim, what the paper's numbers say of it, and what ours say (None where we have none, or none of its kind)."""

    where: str
    statement: str
    paper: Judgement
    ours: Judgement | None


def check_claims(published: Published, ours: OurScores | None = None) -> list[Finding]:
    """Every claim, recomputed."""
    return [
        Finding(
            claim.where,
            claim.statement,
            claim.judge(published, published),
            claim.judge(ours, published) if ours and claim.of_scores else None,
        )
        for claim in CLAIMS
    ]
