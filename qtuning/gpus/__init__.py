"""The GPUs of this machine: which there are, which job holds which, and whether torch sees what a job holds."""

from qtuning.gpus.find import visible

__all__ = ["visible"]
