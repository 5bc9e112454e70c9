"""A causal language model as this project uses it: packed batches, a chunked head, no padding. Begin with packed.py."""
