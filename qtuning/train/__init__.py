"""One cell, from its configuration to its weights: `python -m qtuning.train`. Begin with cell.py, then step.py."""
