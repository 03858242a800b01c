"""Which card ran the model, with a stand-in for NVML, since no machine of CI has two unlike GPUs."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest
from tests.meters.fake_nvml import FakeNvml

from wattwerk import machine
from wattwerk.bench.cards import card_of
from wattwerk.meters.nvml import NvmlConfig, NvmlMeter
from wattwerk.records import Accelerator
from wattwerk.runtimes import cuda_address as addresses


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own choice of cards away."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def unlike(monkeypatch: pytest.MonkeyPatch) -> list[Accelerator]:
    """Return a slow card, first on the bus, and a fast one, which CUDA therefore counts first."""
    return watched(monkeypatch, FakeNvml(names=["NVIDIA Slow", "NVIDIA Fast"]))


def watched(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml, devices: list[int] | None = None) -> list[Accelerator]:
    """Return what the meter says of the cards."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    meter = NvmlMeter(NvmlConfig(devices))
    try:
        return meter.accelerators()
    finally:
        meter.close()


@pytest.mark.parametrize(
    ("device", "visible", "prefix"),
    [
        ("cpu", "", None),
        ("openvino:cpu", "", None),
        ("cuda:0", "", "gpu0"),
        ("cuda:1", "3,2", "gpu2"),
        ("cuda:0", "GPU-8932f937-d72c", "unknown"),
        ("cuda:2", "0", "unknown"),
        ("tensorrt:1", "", "gpu1"),
        ("gpu", "", "unknown"),
        ("gpu.1", "", "unknown"),
        ("migraphx:0", "", "unknown"),
        ("cuda:²", "", "unknown"),
    ],
)
def test_without_addresses_the_number_tells(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str, prefix: str | None
) -> None:
    """NVML's numbering is found from CUDA's, and no other vendor's device gets an NVIDIA card's energy."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert card_of(device).prefix == prefix


@pytest.mark.parametrize("address", ["0000:3c:00.0", "00000000:3C:00.0"])
def test_the_address_decides(unlike: list[Accelerator], address: str) -> None:
    """CUDA's first device is the card at its address, however long the domain is written, not NVML's first."""
    assert card_of("cuda:0", address, unlike).prefix == "gpu1"


def test_a_card_that_no_meter_watches_gets_no_other_ones_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one of two cards in [meters.nvml] the other one's energy is unavailable, and the reason is told."""
    only_first = watched(monkeypatch, FakeNvml(devices=2), [0])
    card = card_of("cuda:0", "0000:3c:00.0", only_first)
    assert card.prefix == "unknown"
    assert "3c" in card.reason


def test_visible_uuids_are_resolved(monkeypatch: pytest.MonkeyPatch, unlike: list[Accelerator]) -> None:
    """A UUID in CUDA_VISIBLE_DEVICES, shortened as CUDA allows, means its card; one that fits two means none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-00000001,GPU-00000000-aaaa")
    assert [card_of(f"cuda:{index}", "", unlike).prefix for index in (0, 1)] == ["gpu1", "gpu0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0000")
    assert card_of("cuda:0", "", unlike).prefix == "unknown"


def test_unlike_cards_are_not_guessed(monkeypatch: pytest.MonkeyPatch, unlike: list[Accelerator]) -> None:
    """Where the runtime tells no address, the number means a card only if CUDA counts along the bus."""
    card = card_of("cuda:0", "", unlike)
    assert card.prefix == "unknown"
    assert "CUDA_DEVICE_ORDER" in card.reason
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert card_of("cuda:0", "", unlike).prefix == "gpu0"


def test_a_record_has_the_address_and_no_serial_number(unlike: list[Accelerator]) -> None:
    """A record says where each card sits; its UUID, which identifies a piece of hardware, stays away."""
    assert [card.uuid for card in unlike] == ["GPU-00000000-aaaa-bbbb", "GPU-00000001-aaaa-bbbb"]
    shown = machine.describe(unlike).accelerators
    assert [(card.prefix, card.address, card.uuid) for card in shown] == [
        ("gpu0", "00000000:3b:00.0", ""),
        ("gpu1", "00000000:3c:00.0", ""),
    ]


def test_a_machine_without_the_driver_tells_no_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A library that is not there, or a device without a number, gives no address and no error."""
    monkeypatch.setattr(addresses, "_LIBRARY", str(tmp_path / "libcuda.so.1"))
    assert addresses.cuda_address("cuda:0") == ""
    assert addresses.cuda_address("cuda") == ""


def test_the_drivers_answer_is_the_address() -> None:
    """Where a CUDA driver and a card are, the address has the form domain:bus:device.function."""
    try:
        ctypes.CDLL(addresses._LIBRARY)
    except OSError:
        pytest.skip("no CUDA driver here")
    address = addresses.cuda_address("cuda:0")
    assert not address or len(address.split(":")) == 3
