"""What a process takes of its machine."""

import os
from pathlib import Path

import jax

_GIB = 1 << 30


def memory_in_use() -> dict[str, float]:
    """GiB that this process holds now, "host_memory_gib", and that its fullest device held at most.

    The latter, "device_memory_gib", only where devices tell; the one or the other is left out where
    the system does not.
    """
    found = {}
    table = Path("/proc/self/statm")
    if table.exists():
        pages = int(table.read_text().split()[1])
        found["host_memory_gib"] = pages * os.sysconf("SC_PAGE_SIZE") / _GIB
    reports = [device.memory_stats() for device in jax.local_devices()]
    peaks = [report["peak_bytes_in_use"] for report in reports if report]
    if peaks:
        found["device_memory_gib"] = max(peaks) / _GIB
    return found
