"""qtuning: data pruning in supervised fine-tuning, reproducible and comparable (Q-Tuning, arXiv 2509.23873)."""

__version__ = "0.1.0"
