"""How long an iteration takes, before anything was measured: what the model computes over a share of the peak."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import psutil

from wattwerk.bench.scenario import Configuration
from wattwerk.catalog import models
from wattwerk.catalog.devices import peak_here
from wattwerk.errors import WattwerkError

#: Share of the peak that networks reach on a CPU and on an accelerator, in round numbers.
#: Source: `effective_ops_per_s` of own records, over the peaks of the catalogue.
_USUAL_SHARE: Final = {True: 0.5, False: 0.35}
#: Operations per second where the device's peak is unknown: of a CPU core, of an accelerator.
_UNKNOWN_OPS_PER_S: Final = {True: 40e9, False: 20e12}
#: Operations of one sample where they could not be counted.
_UNKNOWN_FLOPS: Final = 10e9
#: Least time of an iteration on an accelerator, while the host starts its kernels: eager, compiled.
_HOST_S: Final = {True: 8e-3, False: 2e-3}


def accelerator_here() -> str:
    """Return the name of this machine's first NVIDIA accelerator; empty where there is none."""
    from wattwerk.meters.nvml import NvmlConfig, NvmlMeter

    try:
        meter = NvmlMeter(NvmlConfig())
    except WattwerkError:
        return ""
    try:
        return next((each.name for each in meter.accelerators()), "")
    finally:
        meter.close()


def guess_s(configuration: Configuration, accelerator: str) -> float:
    """Return how long an iteration of the model alone takes as far as can be known without any record, in seconds.

    Args:
        configuration: Which model, on what.
        accelerator: The accelerator's name as its driver gives it; empty where there is none.
    """
    cpu = _on_cpu(configuration)
    known = (peak_here(configuration.device, each, accelerator) for each in (configuration.precision, "fp32"))
    peak = next((each for each in known if each), None)
    ops_per_s = peak.value if peak else _UNKNOWN_OPS_PER_S[cpu] * (psutil.cpu_count() or 1 if cpu else 1)
    computing_s = _flops(configuration) * configuration.batch / (ops_per_s * _USUAL_SHARE[cpu])
    return computing_s if cpu else computing_s + _HOST_S[configuration.runtime == "torch"]


def _on_cpu(configuration: Configuration) -> bool:
    return configuration.device.casefold().split(":")[0] == "cpu"


@lru_cache(maxsize=64)
def _flops_of(model: str, weights: str | None, input_shape: tuple[int, ...] | None) -> float:
    try:
        found = models.resolve(model, weights=weights, input_shape=input_shape).subject().sample_flops
    except WattwerkError:
        return _UNKNOWN_FLOPS
    return found or _UNKNOWN_FLOPS


def _flops(configuration: Configuration) -> float:
    return _flops_of(configuration.model, configuration.weights, configuration.input_shape)
