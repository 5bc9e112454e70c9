"""AMD's GPUs by the kernel's own files (/sys/class/kfd), without a library. Never tried on one."""

from pathlib import Path

from qtuning.gpus.device import Device, Memory


def find_devices(root: Path = Path("/")) -> list[Device]:
    """The GPUs that this process can open, in the order that ROCm numbers them. root: of the file system."""
    devices: list[Device] = []
    nodes = (root / "sys/class/kfd/kfd/topology/nodes").glob("[0-9]*/properties")
    for file in sorted(nodes, key=lambda path: int(path.parent.name)):
        try:
            properties = dict(line.split(maxsplit=1) for line in file.read_text().splitlines())
        except (OSError, ValueError):  # of a GPU that this container may not use
            continue
        node = int(properties.get("drm_render_minor", 0))
        is_gpu = int(properties.get("simd_count", 0)) > 0
        if is_gpu and (root / f"dev/dri/renderD{node}").exists():
            number = len(devices)
            memory = memory_of(node, root)
            total = None if memory is None else memory.total
            devices.append(Device(str(number), f"amd-{node}", f"GPU {number} (AMD)", number, total=total, node=node))
    return devices


def memory_of(node: int, root: Path = Path("/")) -> Memory | None:
    """Memory of the GPU with that render node now; None where the driver does not tell."""
    folder = root / f"sys/class/drm/renderD{node}/device"
    try:
        total, used = (int((folder / f"mem_info_vram_{name}").read_text()) for name in ("total", "used"))
    except (OSError, ValueError):
        return None
    return Memory(total, total - used)
