"""The benchmarks: their names in tables, the metric that stands for each, and what guessing scores. Free of torch."""

from types import MappingProxyType

LABEL = MappingProxyType(
    {
        "arc_easy": "ARC-E",
        "arc_challenge": "ARC-C",
        "gsm8k": "GSM8K",
        "squad": "SQuAD",
        "triviaqa": "TriviaQA",
        "math": "MATH",
    }
)

# GSM8K: models tuned on instructions rarely write "#### 18", which strict-match demands; it is stored beside this one.
HEADLINE = MappingProxyType(
    {
        "arc_easy": "acc",
        "arc_challenge": "acc",
        "gsm8k": "exact_match,flexible-extract",
        "squad": "f1",
        "triviaqa": "exact_match",
        "math": "exact_match",
    }
)

# Nearly all ARC questions have four choices (a handful have three or five). Free text has no chance level.
CHOICES = MappingProxyType({"arc_easy": 4, "arc_challenge": 4})


def chance(benchmark: str) -> float | None:
    """Score of guessing, as a fraction; None where answers are free text."""
    return 1 / CHOICES[benchmark] if benchmark in CHOICES else None
