"""Finished cells as tidy tables, from which everything is counted and drawn. Begin with schema.py."""
