from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wattwerk.meters import rapl
from wattwerk.meters.rapl import RaplConfig, RaplMeter
from wattwerk.records import Scope

RANGE_UJ = 262_143_328_850

#: A recorded two-socket server with memory counters and a platform counter.
TREE = {
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "core",
    "intel-rapl:0:1": "dram",
    "intel-rapl:1": "package-1",
    "intel-rapl:1:0": "dram",
    "intel-rapl:2": "psys",
    "intel-rapl-mmio:0": "package-0",
}


def grow(root: Path, tree: dict[str, str], energy_uj: int = 1_000_000, range_uj: int = RANGE_UJ) -> Path:
    """Write a powercap tree as Linux shows it."""
    (root / "intel-rapl").mkdir(parents=True)
    for zone, name in tree.items():
        folder = root / zone
        folder.mkdir()
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
    return root


def put(root: Path, zone: str, energy_uj: int) -> None:
    """Let a zone's counter show a value."""
    (root / zone / "energy_uj").write_text(f"{energy_uj}\n")


@pytest.fixture
def meter(tmp_path: Path) -> Iterator[tuple[Path, RaplMeter]]:
    """Open a meter on the recorded tree."""
    root = grow(tmp_path / "powercap", TREE)
    opened = RaplMeter(RaplConfig(str(root)))
    yield root, opened
    opened.close()


def test_zones_become_channels(meter: tuple[Path, RaplMeter]) -> None:
    """Two packages, their memory and the platform; no core inside a package, no package twice."""
    scopes = {channel.name: channel.scope for channel in meter[1].channels}
    assert scopes == {
        "cpu0_energy_j": Scope.CPU_PACKAGE,
        "cpu1_energy_j": Scope.CPU_PACKAGE,
        "dram0_energy_j": Scope.DRAM,
        "dram1_energy_j": Scope.DRAM,
        "psys0_energy_j": Scope.BOARD,
    }
    assert all(channel.form == "counter" for channel in meter[1].channels)


def test_each_channel_reads_its_own_zone(meter: tuple[Path, RaplMeter]) -> None:
    """Energy counts from opening, in joules, each zone for itself."""
    root, opened = meter
    names = [channel.name for channel in opened.channels]
    for step, zone in enumerate(
        ("intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1", "intel-rapl:1:0", "intel-rapl:2"), 1
    ):
        put(root, zone, 1_000_000 + step * 100_000)
    read = dict(zip(names, opened.read(), strict=True))
    assert read == pytest.approx(
        {
            "cpu0_energy_j": 0.1,
            "dram0_energy_j": 0.2,
            "cpu1_energy_j": 0.3,
            "dram1_energy_j": 0.4,
            "psys0_energy_j": 0.5,
        }
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 900_000), min_size=1, max_size=30))
def test_wrap_around_is_undone(tmp_path: Path, steps_uj: list[int]) -> None:
    """However often the hardware counter wraps, the channel grows by exactly what was used."""
    range_uj = 1_500_000
    root = grow(Path(tempfile.mkdtemp(dir=tmp_path)) / "powercap", {"intel-rapl:0": "package-0"}, 1_400_000, range_uj)
    opened = RaplMeter(RaplConfig(str(root)))
    position = 1_400_000
    for step in steps_uj:
        position = (position + step - 1) % range_uj + 1  # from 1 to range: it never shows 0 here
        put(root, "intel-rapl:0", position)
        last = opened.read()[0]
    assert last == pytest.approx(sum(steps_uj) / 1e6)
    opened.close()


def test_a_glitch_is_no_energy(meter: tuple[Path, RaplMeter]) -> None:
    """One absurd reading is NaN and costs nothing afterwards; a counter that stays elsewhere is taken up there."""
    root, opened = meter
    put(root, "intel-rapl:0", 200_000_000_000)
    assert math.isnan(opened.read()[0])
    put(root, "intel-rapl:0", 1_500_000)
    assert opened.read()[0] == pytest.approx(0.5)
    put(root, "intel-rapl:0", 100_000_000_000)
    read = [opened.read()[0] for _ in range(3)]
    assert math.isnan(read[0])
    assert math.isnan(read[1])
    assert read[2] == pytest.approx(0.5)
    put(root, "intel-rapl:0", 100_000_250_000)
    assert opened.read()[0] == pytest.approx(0.75)


def test_a_machine_without_rapl_says_so(tmp_path: Path) -> None:
    """No folder, an empty folder, a folder of other zones: unavailable, with a reason and a remedy."""
    assert "does not exist" in RaplMeter.probe(str(tmp_path / "none")).detail
    for tree in ({}, {"dtpm:0": "package-0"}):
        probe = RaplMeter.probe(str(grow(tmp_path / str(len(tree)), tree)))
        assert not probe.available
        assert "no processor package" in probe.detail
        assert probe.remedy


def test_counters_that_stand_at_zero_are_refused(tmp_path: Path) -> None:
    """A virtual machine that shows counters which read 0 has no sensor; one dead counter alone is left out."""
    probe = RaplMeter.probe(str(grow(tmp_path / "vm", {"intel-rapl:0": "package-0"}, energy_uj=0)))
    assert not probe.available
    assert "stand at 0" in probe.detail
    root = grow(tmp_path / "half", {"intel-rapl:0": "package-0", "intel-rapl:0:0": "dram"})
    put(root, "intel-rapl:0:0", 0)
    assert RaplMeter.probe(str(root)).detail == "cpu0_energy_j"


def test_damaged_files_are_a_reason_and_no_traceback(tmp_path: Path) -> None:
    """Text that is no number makes the meter unavailable."""
    root = grow(tmp_path / "powercap", {"intel-rapl:0": "package-0"})
    (root / "intel-rapl:0" / "energy_uj").write_text("<unknown>\n")
    assert not RaplMeter.probe(str(root)).available


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """Give a folder that other users may enter, and stop being root: root may read everything."""
    folder = Path(tempfile.mkdtemp(prefix="wattwerk-rapl-"))
    folder.chmod(0o755)
    root_user = os.geteuid() == 0
    root = grow(folder / "powercap", TREE)
    for file in root.glob("*/energy_uj"):
        file.chmod(0o400 if root_user else 0o000)
    try:
        if root_user:
            os.seteuid(65534)
        yield root
    finally:
        if root_user:
            os.seteuid(0)
        shutil.rmtree(folder)


@pytest.mark.skipif(os.name != "posix", reason="file permissions are a matter of POSIX")
def test_missing_permission_names_the_command(unprivileged: Path) -> None:
    """As an ordinary user, counters readable by root only give the very command that helps."""
    probe = RaplMeter.probe(str(unprivileged))
    assert not probe.available
    assert "readable by root only" in probe.detail
    assert f"sudo chmod a+r {unprivileged}/*/energy_uj" in (probe.remedy or "")


def test_a_failed_opening_leaves_no_file_open(tmp_path: Path) -> None:
    """Counters opened before the failing one are closed again."""
    root = grow(tmp_path / "powercap", TREE)
    (root / "intel-rapl:2" / "energy_uj").unlink()
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert not RaplMeter.probe(str(root)).available
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert after == before


def test_the_default_folder_is_the_kernels() -> None:
    """Without a config the meter looks where Linux puts the zones."""
    assert RaplConfig().root == rapl.POWERCAP == "/sys/class/powercap"
