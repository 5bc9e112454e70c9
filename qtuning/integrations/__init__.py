"""The pruned step for users' own trainers: of transformers, and of TRL (docs/trainers.md)."""

from qtuning.integrations.trainer import Pruned

__all__ = ["Pruned"]
