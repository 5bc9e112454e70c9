"""Pruners: pure functions from scores, budget and randomness to masks."""
