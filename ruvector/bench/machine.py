"""What this machine is: names, sizes and counts for the head of a report."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

import ruvector
from ruvector import _ruvector_core as core


def describe() -> dict[str, Any]:
    """CPU, caches in bytes, CPUs, system, instruction sets and versions."""
    online, affinity, quota = core.cpu_counts()
    return {
        "cpu": core.cpu_brand(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "caches": {f"L{level}": core.cpu_cache(level) for level in (1, 2, 3)},
        "cpus": min(n for n in (online, affinity, quota) if n),
        "isas": list(ruvector.isas()),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "ruvector": ruvector.__version__,
    }
