"""Scores over seeds and items: means, intervals, and which differences are real. Begin with summary.py."""
