"""Does it still work when it is large: train sets of up to 10^6 rows, grids of up to 5,000 cells (docs/scale.md)."""
