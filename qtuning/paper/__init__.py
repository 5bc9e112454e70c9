"""The numbers that the paper prints: recomputed, and beside ours."""
