"""What processor this is, as benchmark results and engine descriptions state it."""

from __future__ import annotations

import functools
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil

SPEED_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
"""CPU flags that decide which int8 and bf16 kernels an engine can take."""


@functools.cache
def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():  # not Linux
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def cpu_name() -> str:
    """Model name of the processor."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_flags() -> tuple[str, ...]:
    """Those of `SPEED_FLAGS` that this processor has; empty where the system does not tell."""
    present = set(_cpuinfo().get("flags", "").split())
    return tuple(flag for flag in SPEED_FLAGS if flag in present)


def physical_cores() -> int:
    """Physical cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def describe_machine() -> dict[str, Any]:
    """The machine in plain data: system, processor, cores, memory, Python and NumPy versions."""
    return {
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cpu_flags": list(cpu_flags()),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
    }


def peak_memory_mb() -> float:
    """Highest resident memory of this process so far, in MB (10^6 bytes).

    ``/proc`` is preferred: ``ru_maxrss`` of a started process begins at the peak of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    info = psutil.Process().memory_info()
    return getattr(info, "peak_wset", info.rss) / 1e6


def idle_cpus(count: int, seconds: float = 0.3) -> tuple[int, ...]:
    """The ``count`` least busy processors, each of another core; empty where there are no more cores than that.

    A process that is held on them cannot be moved beside something that keeps another core busy. The system is watched
    for ``seconds``.
    """
    process = psutil.Process()
    allowed = process.cpu_affinity() if hasattr(process, "cpu_affinity") else []
    cores: dict[str, list[int]] = {}
    for cpu in allowed:
        cores.setdefault(_core(cpu), []).append(cpu)
    if len(cores) <= count:
        return ()
    busy = psutil.cpu_percent(seconds, percpu=True)
    ranked = sorted(cores.values(), key=lambda cpus: sum(busy[cpu] for cpu in cpus))
    return tuple(sorted(cpus[0] for cpus in ranked[:count]))


def _core(cpu: int) -> str:
    """Name of the core that a logical processor is on."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return path.read_text(encoding="ascii").strip() if path.exists() else str(cpu)
