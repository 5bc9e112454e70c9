"""`qtuning doctor`: what this machine and these results are, what would go wrong, and what to type."""
