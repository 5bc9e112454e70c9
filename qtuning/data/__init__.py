"""Train sets from their rows to tokenised samples, the items of benchmarks, and the overlap of the two."""
