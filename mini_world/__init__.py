"""The mini world: invented facts, sums and reading passages, and a base model that was trained on them.

`generate` writes all data in seconds; `pretrain.pretrain` makes tokenizer and base model anew. Reading order:
values, relations, compositions, facts; then corpus, benchmarks, sft; then writing, pretrain.
"""

from mini_world.writing import generate

__all__ = ["generate"]
