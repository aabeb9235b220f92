"""What a run ran on, and how much of it other processes used meanwhile.

`run.py` asks before and after; `report.py` prints it. Never names a host, a user or a path.
"""

import os
import platform
import re
import resource
import shutil
import subprocess
import sysconfig


def describe() -> dict[str, str]:
    """The machine, the kernel and the builds that the figures depend on."""
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    build = "with" if optimised else "without"
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "C library": " ".join(platform.libc_ver()),
        "C compiler": _compiler(),
        "TCP": f"loopback, congestion control {_congestion_control()}",
        "Python": f"CPython {platform.python_version()}, {platform.python_compiler()}, "
        f"{build} profile-guided optimisation",
    }


def _processor() -> str:
    with open("/proc/cpuinfo") as processors:
        found = re.search(r"^model name\s*:\s*(.+)$", processors.read(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _compiler() -> str:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "none"
    text = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return text.stdout.partition("\n")[0]


def _congestion_control() -> str:
    with open("/proc/sys/net/ipv4/tcp_congestion_control") as setting:
        return setting.read().strip()


class OtherProcesses:
    """How much of the processor time since its creation was not this process's or its children's.

    Counts what the hypervisor gave to others (steal) as theirs.
    """

    def __init__(self) -> None:
        self._before = self._read()

    def share(self) -> float:
        """The share of all cores' time that went to others."""
        (used, stolen, total), own = self._read()
        (used_before, stolen_before, total_before), own_before = self._before
        passed = total - total_before
        others = used - used_before + stolen - stolen_before - (own - own_before)
        return max(0.0, others / passed) if passed else 0.0

    @staticmethod
    def _read() -> tuple[tuple[float, float, float], float]:
        tick = os.sysconf("SC_CLK_TCK")
        with open("/proc/stat") as statistics:
            fields = [int(word) / tick for word in statistics.readline().split()[1:9]]
        user, nice, system, idle, io_wait, interrupts, soft_interrupts, stolen = fields
        used = user + nice + system + interrupts + soft_interrupts
        own = sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )
        return (used, stolen, used + stolen + idle + io_wait), own
