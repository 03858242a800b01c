"""The Prometheus endpoint, read by a real Prometheus."""

from __future__ import annotations

import contextlib
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from tests.meters.prometheus import Scraper, needs_prometheus

from wattwerk.errors import ConfigError
from wattwerk.meters.base import Channel
from wattwerk.meters.exporter import Exporter, family_of
from wattwerk.meters.recorder import MeterSpec, Recorder
from wattwerk.meters.trace import Trace
from wattwerk.records import Scope

pytest.importorskip("prometheus_client")
CHANNELS = (
    Channel(name="gpu0_power_w", form="gauge", scope=Scope.ACCELERATOR),
    Channel(name="gpu0_energy_j", form="counter", scope=Scope.ACCELERATOR),
    Channel(name="wall_power_w", form="gauge", scope=Scope.WALL),
    Channel(name="gpu0_throttle_count", form="gauge"),
)


def scraped(exporter: Exporter) -> list[str]:
    """Return the lines of an endpoint that hold values."""
    with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_what_is_said_now() -> None:
    """Each channel's newest value has channel, scope and provenance; what is old or has no unit is left out."""
    now_ns = time.perf_counter_ns()
    rows = [[70.0, 5.0, 90.0, 0.0], [71.5, 6.0, np.nan, 4.0]]
    exporter = Exporter(lambda: Trace(CHANNELS, [now_ns - 60 * 10**9, now_ns], rows), port=0)
    try:
        assert scraped(exporter) == [
            'wattwerk_power_watts{channel="gpu0_power_w",provenance="measured",scope="accelerator"} 71.5',
            'wattwerk_energy_joules_total{channel="gpu0_energy_j",provenance="measured",scope="accelerator"} 6.0',
        ]
    finally:
        exporter.close()


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("power_w", "wattwerk_power_watts"),
        ("gpu0_power_average_w", "wattwerk_power_average_watts"),
        ("gpu0_temperature_celsius", "wattwerk_temperature_celsius"),
        ("gpu0_throttle_count", None),
    ],
)
def test_families(name: str, family: str | None) -> None:
    """The unit decides on the family; what is no physical quantity has none."""
    found = family_of(Channel(name=name, form="gauge"))
    assert (found and found[0]) == family


def test_a_port_that_is_taken() -> None:
    """Two endpoints at one port: the second is an error that names it."""
    empty = Trace((), [], [])
    first = Exporter(lambda: empty, port=0)
    try:
        with pytest.raises(ConfigError, match=f"127.0.0.1:{first.port} cannot be listened at"):
            Exporter(lambda: empty, port=first.port)
    finally:
        first.close()


@needs_prometheus
def test_prometheus_scrapes_it(tmp_path: Path) -> None:
    """A real Prometheus that scrapes a recorder's endpoint computes the power from the counter, within 5 %."""
    with (
        Recorder([MeterSpec("wattwerk.testing:FakeMeter", {"base_w": 250.0})]) as recorder,
        contextlib.closing(
            Exporter(lambda: recorder.trace(since_ns=time.perf_counter_ns() - 10**10), port=0)
        ) as exporter,
        Scraper(tmp_path, exporter.port) as scraper,
    ):
        scraper.wait_for("count_over_time(wattwerk_energy_joules_total[4s]) >= 8")  # or the rate is extrapolated
        found = scraper.ask('rate(wattwerk_energy_joules_total{scope="accelerator"}[4s])')
        gauge = scraper.ask("wattwerk_power_watts")
    assert float(found[0]["value"][1]) == pytest.approx(250.0, rel=0.05)
    assert gauge[0]["metric"]["channel"] == "fake_power_w"
    assert float(gauge[0]["value"][1]) == 250.0
