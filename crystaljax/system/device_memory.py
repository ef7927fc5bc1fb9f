"""How much memory of the devices is left."""

import os

from jax.sharding import Mesh

# What allocators lose to fragmentation, and compilers do not count.
_USABLE_SHARE = 0.85
# Of the memory of a machine that others work on too.
_USABLE_SHARE_OF_HOST = 0.5


def available_bytes(mesh: Mesh) -> float | None:
    """Bytes that a batch may take on each device of a mesh; None if unknown."""
    if mesh.devices.flat[0].platform == "cpu":
        free = _free_host_bytes()
        return None if free is None else _USABLE_SHARE_OF_HOST * free / mesh.size
    free = []
    for device in mesh.local_devices:
        stats = device.memory_stats() or {}
        if "bytes_limit" not in stats or "bytes_in_use" not in stats:
            return None
        free.append(stats["bytes_limit"] - stats["bytes_in_use"])
    return _USABLE_SHARE * min(free)


def _free_host_bytes() -> int | None:
    try:
        # What Linux would free of its caches counts as available; sysconf's does not.
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
