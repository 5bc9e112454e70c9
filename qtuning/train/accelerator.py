"""Which device a model runs on, and which other processes take part: the one place where accelerate is asked."""

import os

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import AutocastKwargs, check_cuda_p2p_ib_support

from qtuning.train.exchange import DEVICE_WAIT


def make_accelerator(precision: str = "no", sharded: bool = False) -> Accelerator:
    """On a GPU of NVIDIA or AMD if torch sees one, else on the CPU; accelerate alone would take Apple's and Intel's.

    These have no float64 (Apple) and none of our kernels. Several processes without a GPU talk over gloo. precision:
    `bf16` for autocast, else `no`. sharded: each process holds a slice of the model (FSDP).
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    handlers: list[InitProcessGroupKwargs | AutocastKwargs] = [InitProcessGroupKwargs(timeout=DEVICE_WAIT)]
    if sharded:  # autocast would keep bfloat16 copies of all the weights that a forward gathers
        handlers.append(AutocastKwargs(cache_enabled=False))
    if several and not check_cuda_p2p_ib_support():  # RTX 40 under old drivers; accelerate refuses them without these
        os.environ.setdefault("NCCL_P2P_DISABLE", "1")
        os.environ.setdefault("NCCL_IB_DISABLE", "1")
    cpu = not torch.cuda.is_available()
    return Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=handlers)  # type: ignore[arg-type]
