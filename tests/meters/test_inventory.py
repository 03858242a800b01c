from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.meters.test_host_meters import NUMBERS

from wattwerk.errors import ConfigError
from wattwerk.meters import METERS, inventory
from wattwerk.meters.inventory import default_specs, probe_all
from wattwerk.meters.protocol import MeterSpec, load_meter
from wattwerk.registry import Probe


@pytest.fixture
def sensors(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return a set of the sensors that this machine pretends to have."""
    present: set[str] = set()
    monkeypatch.setattr(inventory, "_probe", lambda name: Probe(name in present, name))
    return present


def names(specs: list[MeterSpec]) -> list[str]:
    """Return the meters' names."""
    return [spec.name for spec in specs]


def write(home: Path, text: str) -> None:
    """Write the user's configuration."""
    home.mkdir()
    (home / "config.toml").write_text(text)


def test_a_machine_without_sensors_gets_the_model(sensors: set[str]) -> None:
    """Without sensors: the model where there are numbers, else the host's load alone."""
    assert names(default_specs()) == ["host-load"]
    specs = default_specs(NUMBERS)
    assert names(specs) == ["cpu-model", "host-load"]
    assert specs[0].config == NUMBERS


def test_a_sensor_drives_the_model_out(sensors: set[str]) -> None:
    """A measured processor is never modelled; a GPU alone changes nothing about the processor."""
    sensors.update({"nvml", "rapl"})
    assert names(default_specs(NUMBERS)) == ["nvml", "rapl", "host-load"]
    sensors.remove("rapl")
    assert names(default_specs(NUMBERS)) == ["nvml", "cpu-model", "host-load"]


def test_the_users_config_overrides(sensors: set[str], wattwerk_home: Path) -> None:
    """Single numbers of the user beat the catalogue's with bounds of their own, and options reach their meter."""
    write(wattwerk_home, "[meters.cpu-model]\nmax_w = 65.0\n[meters.nvml]\ndevices = [1]\n")
    configs = {spec.name: spec.config for spec in default_specs(NUMBERS)}
    own = {"max_w": 65.0, "max_low_w": 58.5, "max_high_w": 71.5, "source": "config.toml"}
    assert configs["cpu-model"] == pytest.approx(NUMBERS | own)
    assert configs["nvml"] == {"devices": [1]}


def test_probes_cover_every_known_meter() -> None:
    """Each meter of the registry is probed, and each that does not work says what to do."""
    probes = probe_all()
    assert list(probes) == METERS.names()
    assert probes["host-load"].available
    assert all(probe.available or probe.remedy for probe in probes.values())


def test_the_models_probe_depends_on_its_numbers() -> None:
    """Without numbers the model is unavailable and names them; with numbers it says which."""
    assert "idle_w" in probe_all()["cpu-model"].detail
    probe = probe_all(NUMBERS)["cpu-model"]
    assert probe.available
    assert "10 to 50 W (a data sheet)" in probe.detail


@pytest.mark.parametrize("name", ["nvlm", "wattwerk.testing:Nothing", "wattwerk.units:format_value"])
def test_unknown_meters_are_the_users_mistake(name: str) -> None:
    """A misspelt name, a missing attribute and something that is no meter are refused."""
    with pytest.raises(ConfigError):
        load_meter(name)


def test_every_channel_name_is_unique_and_ends_in_its_unit(tmp_path: Path) -> None:
    """Across the built-in meters no channel name occurs twice."""
    configs: dict[str, dict[str, Any]] = {"host-load": {}, "cpu-model": NUMBERS}
    meters = [load_meter(name) for name in configs]
    opened = [meter(meter.config(**config)) for meter, config in zip(meters, configs.values(), strict=True)]
    found = [channel.name for meter in opened for channel in meter.channels]
    assert len(found) == len(set(found)) == 5


def test_a_reading_of_the_users_own_has_its_own_bounds(wattwerk_home: Path) -> None:
    """Two readings of a wall meter replace the catalogue's numbers and its wide bounds."""
    wattwerk_home.mkdir()
    (wattwerk_home / "config.toml").write_text("[meters.cpu-model]\nidle_w = 20.0\nmax_w = 90\n")
    (spec,) = [spec for spec in default_specs(NUMBERS) if spec.name == "cpu-model"]
    assert spec.config["idle_w"] == 20.0
    assert spec.config["idle_low_w"] == pytest.approx(18.0)
    assert spec.config["max_high_w"] == pytest.approx(99.0)
    assert spec.config["source"] == "config.toml"
