from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from tests.meters.http_device import Device
from tests.meters.test_host_meters import NUMBERS

from wattwerk.errors import ConfigError
from wattwerk.meters import METERS, inventory
from wattwerk.meters.inventory import check_sections, default_specs, probe_all
from wattwerk.meters.protocol import MeterSpec, load_meter
from wattwerk.meters.recorder import Recorder
from wattwerk.registry import Probe


@pytest.fixture
def sensors(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return a set of the sensors that this machine pretends to have."""
    present: set[str] = set()
    monkeypatch.setattr(inventory, "_probe", lambda name: Probe(name in present, name))
    chips = ["amdgpu", "zenpower", "power_meter", "ina226", "xe"]
    monkeypatch.setattr(inventory, "readable_chips", lambda: [chip for chip in chips if chip in present])
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


@pytest.mark.parametrize(
    ("present", "used", "chips", "reasons"),
    [
        ({"rapl", "hwmon", "zenpower"}, ["rapl"], None, {"hwmon": "zenpower: rapl measures the same"}),
        ({"hwmon", "zenpower", "xe"}, ["hwmon"], ["zenpower", "xe"], {"cpu-model": "the processor is left to hwmon"}),
        ({"amdgpu", "hwmon", "power_meter"}, ["amdgpu", "hwmon", "cpu-model"], ["power_meter"], {}),
        ({"hwmon", "ina226"}, ["cpu-model"], None, {"hwmon": "[meters.hwmon.scopes]"}),
        ({"rapl", "battery"}, ["rapl", "battery"], None, {}),
        ({"rapl", "battery", "hwmon", "power_meter"}, ["rapl", "hwmon"], ["power_meter"],
         {"battery": "hwmon measures the whole machine already"}),
        ({"ipmi", "hailo", "tegrastats"}, ["cpu-model"], None, {"ipmi": "[meters.ipmi] in", "hailo": "switches"}),
    ],
)  # fmt: skip
def test_local_sensors_are_used_where_they_add_something(
    sensors: set[str], present: set[str], used: list[str], chips: list[str] | None, reasons: dict[str, str]
) -> None:
    """No sensor is read by two meters, none that runs a command is used unasked, and the doctor says why."""
    sensors.update(present)
    specs = default_specs(NUMBERS)
    assert names(specs) == [*used, "host-load"]
    assert next((spec.config["chips"] for spec in specs if spec.name == "hwmon"), None) == chips
    found = probe_all(NUMBERS)
    assert [name for name, choice in found.items() if choice.used] == [n for n in METERS.names() if n in names(specs)]
    for name, part in reasons.items():
        assert part in found[name].reason


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


TWO_PLUGS = """
[meters.desk]
kind = "shelly"
url = "{one}"
[meters.rack]
kind = "shelly"
url = "{two}"
[meters.other-node]
kind = "rapl"
root = "{tree}"
"""


def plug() -> Device:
    """Return a plug as Shelly documents it."""
    status = {"switch:0": {"id": 0, "apower": 41.0, "aenergy": {"total": 1.0}}}
    replies = {"/shelly": {"mac": "A8032ABE54DC", "gen": 2}, "/rpc/Shelly.GetStatus": status}
    return Device(replies | {"/rpc/Switch.GetStatus?id=0": status["switch:0"]})


def test_several_meters_of_a_kind(wattwerk_home: Path, tmp_path: Path) -> None:
    """Each section has its own name in channels, probes and faults; where a meter has no prefix it gets one."""
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    for file, text in {"name": "package-0", "max_energy_range_uj": "262143328850", "energy_uj": "5"}.items():
        (zone / file).write_text(text)
    with plug() as one, plug() as two:
        write(wattwerk_home, TWO_PLUGS.format(one=one.url, two=two.url, tree=zone.parent))
        specs = [spec for spec in default_specs() if spec.section]
        assert [(spec.name, spec.label) for spec in specs] == [
            ("shelly", "desk"), ("shelly", "rack"), ("rapl", "other-node"),
        ]  # fmt: skip
        probes = probe_all()
        assert probes["desk"].used
        assert probes["rack"].detail == "rack0_power_w, rack0_energy_j"
        two.replies["/rpc/Switch.GetStatus?id=0"] = 500
        with Recorder(specs) as recorder:
            time.sleep(1.2)
            trace = recorder.trace()
        assert [channel.name for channel in recorder.channels] == [
            "desk0_power_w", "desk0_energy_j", "rack0_power_w", "rack0_energy_j", "other_node_cpu0_energy_j",
        ]  # fmt: skip
        assert trace.values[:, 0].max(initial=0, where=trace.values[:, 0] > 0) == 41.0
        assert any(fault.startswith("rack: ") for fault in recorder.faults)
        assert not any(fault.startswith("desk: ") for fault in recorder.faults)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[meters.desk]\nkind = "shely"\n', "kind = 'shely' is no meter.*did you mean 'shelly'"),
        ("[meters.desk]\nurl = 'x'\n", r"\[meters.desk\] is no section of a meter.*kind = \"shelly\""),
        ('[meters.shelly]\nkind = "tasmota"\n', "its name is that of another meter"),
        ('[meters.desk]\nkind = "shelly"\n', r"\[meters.desk\]: Object missing required field `url`"),
        ('[meters.1]\nkind = "shelly"\nurl = "x"', "channels cannot be named after '1'"),
        ("[contain]\n", r"\[contain\] is no section: did you mean \[contains\]"),
        ("[meter.nvml]\n", r"\[meter\] is no section: did you mean \[meters\]"),
    ],
)
def test_sections_are_checked(wattwerk_home: Path, text: str, told: str) -> None:
    """A mistake in a section is told with the section and the nearest known name."""
    write(wattwerk_home, text)
    with pytest.raises(ConfigError) as caught:
        check_sections()
    assert re.search(told, str(caught.value), re.DOTALL)


def test_sections_of_others_are_allowed(wattwerk_home: Path) -> None:
    """What is no meter's is not checked here."""
    tables = ("sinks.a", "forward", "meter", "exporter", "account", "machine", "measure")
    write(wattwerk_home, "".join(f"[{name}]\n" for name in tables))
    check_sections()
