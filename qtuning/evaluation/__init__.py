"""Evaluation with lm-eval, which no other part of the package imports."""
