"""What machine this is: the ``Platform`` of every record."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import psutil

from wattwerk.config import user_section
from wattwerk.records import Accelerator, Platform

#: Packages whose versions can change a figure.
_PACKAGES: Final = (
    "wattwerk", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml",
    "openvino", "nncf", "torch", "torchao", "transformers", "triton", "nvidia-ml-py", "nvidia-cudnn-cu13",
    "nvidia-cudnn-cu12",
)  # fmt: skip

_CPUINFO: Final = Path("/proc/cpuinfo")


@functools.cache
def cpu_info() -> dict[str, str]:
    """Return the first processor's entries of ``/proc/cpuinfo``; empty where there is none."""
    try:
        first = _CPUINFO.read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs if key.strip()}


@functools.cache
def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    if name := cpu_info().get("model name"):
        return name
    if platform.system() == "Darwin":
        answer = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        return answer.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def is_virtual() -> bool | None:
    """Tell whether this is a virtual machine; None where the system does not tell."""
    flags = cpu_info().get("flags")
    return None if flags is None else "hypervisor" in flags.split()


def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages that can change a figure."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe(
    accelerators: Sequence[Accelerator] = (),
    limits: Mapping[str, float] | None = None,
    packages: Mapping[str, str] | None = None,
) -> Platform:
    """Describe this machine.

    Args:
        accelerators: What the meters and runtimes found.
        limits: What the meters tell of fixed limits.
        packages: Versions of what can change a figure; by default those of all such packages of this interpreter.

    Returns:
        The platform; its label is ``label`` in the ``[machine]`` section of ``config.toml``, else the first
        accelerator's name, else the processor's.
    """
    label = user_section("machine").get("label") or (accelerators[0].name if accelerators else cpu_name())
    return Platform(
        label=str(label),
        os=_system(),
        kernel=platform.release(),
        python=platform.python_version(),
        cpu=cpu_name(),
        cpu_physical_count=psutil.cpu_count(logical=False),
        cpu_logical_count=psutil.cpu_count(),
        memory_bytes=psutil.virtual_memory().total,
        virtual_machine=is_virtual(),
        # a serial identity has no business in a record that is passed on
        accelerators=[msgspec.structs.replace(accelerator, uuid="") for accelerator in accelerators],
        packages=package_versions() if packages is None else dict(packages),
        limits=dict(limits or {}),
    )


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.version()}"
