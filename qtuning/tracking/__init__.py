"""Copies of cells on dashboards: Weights & Biases, Trackio, TensorBoard (docs/tracking.md). Begin with mirror.py."""
