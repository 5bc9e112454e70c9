"""The sharded part of a resume state: every process writes its slices, as safetensors (`torch.distributed.checkpoint`).

Any number of processes reads them back, sharded or whole: a slice says where in its tensor it lies.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, distributed
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_slices
from torch.distributed.checkpoint.state_dict_saver import save as save_slices

from qtuning.files import file_digest
from qtuning.train.exchange import gather_objects, host_group

FOLDER = "shards"
OWN = "shard-{:05d}-model-00001-of-00001.safetensors"
"""The file of a process, counted from 1, as HuggingFaceStorageWriter names it."""


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Write sharded tensors into `folder`; returns name -> SHA-256 of its files. All processes call it together."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    save_slices(dict(tensors), storage_writer=writer, process_group=host_group())
    # each its own, by name: over NFS a node may list a folder for seconds without the files of the others
    own = folder / OWN.format(distributed.get_rank() + 1)
    return dict(sorted(gather_objects([(own.name, file_digest(own))])))


def check_shards(folder: Path, digests: Mapping[str, str]) -> None:
    """Raises ValueError or OSError unless `folder` holds what `write_shards` wrote."""
    for name, digest in digests.items():
        if file_digest(folder / name) != digest:
            raise ValueError(f"checksum of {FOLDER}/{name} differs")


def names_of_shards(folder: Path) -> set[str]:
    """The names of the tensors that `write_shards` wrote."""
    return set(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


def read_shards(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Fill tensors, sharded or whole, with what was written under their names. All processes call it together."""
    load_slices(dict(into), storage_reader=HuggingFaceStorageReader(str(folder)), process_group=host_group())
