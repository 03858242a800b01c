"""A Prometheus endpoint: what the meters say now, for whoever asks.

    wattwerk_power_watts{channel="gpu0_power_w",scope="accelerator",provenance="measured"} 71.3
    wattwerk_energy_joules_total{channel="cpu0_energy_j",scope="cpu_package",provenance="measured"} 1834.2
    wattwerk_total_power_watts{scope="system",provenance="derived"} 118.5

One family for each unit, in Prometheus' base units; the channel, what it covers and whether it is measured are labels,
so that nothing is summed that overlaps without the question saying so. Totals (``totals``) are families of their own:
no question needs to sum. A channel that has given nothing lately is left out: Prometheus then knows that the value is
missing, and does not go on with the last one.

Source: Prometheus, exposition formats, and its page on naming.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.meters.base import Channel
from wattwerk.meters.live import Live
from wattwerk.meters.recorder import Recorder
from wattwerk.meters.totals import Total
from wattwerk.meters.trace import Trace

STALE_S: Final = 5.0

#: Last words of a channel's name -> family and help; longer ones are tried first.
_FAMILIES: Final = {
    "power_w": ("wattwerk_power_watts", "Electric power."),
    "power_average_w": ("wattwerk_power_average_watts", "Electric power as the sensor averages it."),
    "energy_j": ("wattwerk_energy_joules", "Energy since the recording began."),
    "celsius": ("wattwerk_temperature_celsius", "Temperature."),
    "volts": ("wattwerk_voltage_volts", "Voltage."),
    "amperes": ("wattwerk_current_amperes", "Current."),
    "hz": ("wattwerk_clock_hertz", "Clock rate."),
    "bytes": ("wattwerk_memory_bytes", "Memory in use."),
    "ratio": ("wattwerk_load_ratio", "Load, as a fraction of one."),
}
_LABELS: Final = ["channel", "scope", "provenance"]


def family_of(channel: Channel) -> tuple[str, str] | None:
    """Return name and help of the family that a channel belongs to; None for one that has no unit of a family."""
    found = [suffix for suffix in _FAMILIES if channel.name == suffix or channel.name.endswith(f"_{suffix}")]
    return _FAMILIES[max(found, key=len)] if found else None


class Exporter:
    """Serves ``/metrics`` until it is closed.

    Args:
        latest: Returns a trace with the newest samples; called at every scrape.
        totals: Returns the totals; likewise.
        faults: Returns the faults so far; likewise.
        port: To listen at; 0 takes a free one.
        address: To listen at: this machine alone by default.

    Attributes:
        address: Where it listens.
        port: Likewise.

    Raises:
        ConfigError: The port is taken, or the address is none of this machine's.
        UnavailableError: prometheus_client is not installed.
    """

    def __init__(
        self,
        latest: Callable[[], Trace],
        port: int = 9877,
        address: str = "127.0.0.1",
        *,
        totals: Callable[[], Mapping[str, Total]] | None = None,
        faults: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError as error:
            raise UnavailableError(
                "the Prometheus endpoint needs prometheus_client", '`pip install "wattwerk[meters]"`'
            ) from error
        self.address = address
        self._latest, self._totals, self._faults = latest, totals, faults
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, address, registry)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"{address}:{port} cannot be listened at ({error})", "choose another port or address"
            ) from error
        self.port: int = self._server.server_port

    def describe(self) -> list[Any]:
        """Return nothing: which families there are is known once there are samples."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the families with the newest value of each channel, as prometheus_client asks for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        trace = self._latest()
        oldest_ns = time.perf_counter_ns() - round(STALE_S * 1e9)
        families: dict[str, Any] = {}
        for channel in trace.channels:
            about = family_of(channel)
            value = trace.newest(channel.name, oldest_ns)
            if about is None or math.isnan(value):
                continue
            make = CounterMetricFamily if channel.form == "counter" else GaugeMetricFamily
            family = families.setdefault(about[0], make(*about, labels=_LABELS))
            scope = channel.scope.value if channel.scope else ""
            family.add_metric([channel.name, scope, channel.provenance.value], value)
        yield from families.values()
        if self._totals:
            yield from _total_families(self._totals())
        if self._faults:
            yield GaugeMetricFamily("wattwerk_faults_count", "Faults of meters so far.", value=len(self._faults()))

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _total_families(totals: Mapping[str, Total]) -> list[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    labels = _LABELS[1:]
    power = GaugeMetricFamily("wattwerk_total_power_watts", "Electric power of a scope or the system.", labels=labels)
    energy = CounterMetricFamily("wattwerk_total_energy_joules", "Energy since the recording began.", labels=labels)
    gap = GaugeMetricFamily("wattwerk_total_gap_seconds", "Time of which no energy is known.", labels=labels)
    for scope, total in totals.items():
        about = [scope, total.provenance.value]
        energy.add_metric(about, total.energy_j)
        gap.add_metric(about, total.gap_s)
        if math.isfinite(total.power_w):
            power.add_metric(about, total.power_w)
    return [power, energy, gap]


def serve(recorder: Recorder, live: Live, port: int = 9877, address: str = "127.0.0.1") -> Exporter:
    """Tell Prometheus what a running recorder says, with totals and faults.

    Args:
        recorder: A running one.
        live: What follows it.
        port: As for ``Exporter``.
        address: As for ``Exporter``.

    Raises:
        ConfigError: As for ``Exporter``.
        UnavailableError: As for ``Exporter``.
    """
    return Exporter(live.update, port, address, totals=live.totals, faults=lambda: recorder.faults)
