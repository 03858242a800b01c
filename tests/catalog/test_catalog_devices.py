from __future__ import annotations

import pytest

from wattwerk.catalog import devices, processors


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA H200", "H200 SXM 141GB"),
        ("nvidia h200", "H200 SXM 141GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM5 80GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM4 80GB"),
        ("Tesla V100-SXM2-32GB", "V100 SXM2 32GB"),
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090"),
        ("Intel(R) Arc(TM) B580 Graphics", "Arc B580"),
        ("GeForce RTX 4090", "GeForce RTX 4090"),
    ],
)
def test_an_accelerator_is_found_by_its_drivers_name(reported: str, name: str) -> None:
    """The names that drivers report lead to the row of exactly that variant."""
    found = devices.find_accelerator(reported)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "reported",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100 PCIe",
        "NVIDIA H100 NVL",
        "NVIDIA H200 NVL",
        "NVIDIA A100 80GB PCIe",
        "NVIDIA A100-SXM4-40GB",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GH200 480GB",
        "",
    ],
)
def test_a_variant_with_other_figures_is_not_mistaken(reported: str) -> None:
    """Laptop, PCIe and NVL variants, smaller memories and slices are unknown rather than wrong."""
    assert devices.find_accelerator(reported) is None


def test_every_row_names_its_source() -> None:
    """Each row has a source, a confidence and at least one peak; names are unique."""
    rows = devices.accelerators()
    assert all(row.source and row.confidence in {"A", "B", "C"} for row in rows)
    assert all(any(devices.peak_ops_per_s(row, p) for p in ("fp32", "fp16", "bf16", "int8")) for row in rows)
    assert len({row.name for row in rows}) == len(rows)


def test_peaks_of_an_h200_are_dense() -> None:
    """The H200 does 989.5 T in fp16 and bf16, half of it in tf32, double in int8, and 66.91 T in fp32."""
    peaks = {p: devices.peak_here("cuda:0", p, "NVIDIA H200") for p in ("fp32", "tf32", "bf16", "fp16", "int8")}
    values = {p: peak.value / 1e12 for p, peak in peaks.items() if peak}
    assert values == pytest.approx({"fp32": 66.91, "tf32": 494.7, "bf16": 989.5, "fp16": 989.5, "int8": 1979})
    assert all(peak.low == peak.value == peak.high for peak in peaks.values() if peak)


def test_an_unknown_device_has_no_peak() -> None:
    """No row, or no figure for this precision, gives None rather than a guess."""
    assert devices.peak_here("cuda:0", "fp16", "NVIDIA H300") is None
    assert devices.peak_here("cuda:0", "tf32", "Tesla V100-SXM2-32GB") is None


def test_the_processors_peak_follows_from_its_flags() -> None:
    """Eight cores at 3 GHz with AVX-512 do 768 G with one unit, double with two; matrix units set bf16."""
    vector = frozenset({"fma", "avx512f", "avx512_bf16"})
    assert processors._peak(vector, 8, 3e9, "fp32") == pytest.approx((768e9, 1152e9, 1536e9))
    assert processors._peak(vector, 8, 3e9, "bf16") == pytest.approx((1536e9, 2304e9, 3072e9))
    assert processors._peak(vector, 8, 3e9, "fp16") is None
    assert processors._peak(frozenset({"fma"}), 8, 3e9, "fp32") == pytest.approx((384e9, 576e9, 768e9))
    assert processors._peak(vector | {"amx_bf16"}, 8, 3e9, "bf16")[1] == pytest.approx(24.576e12)
    assert processors._peak(frozenset(), 8, 3e9, "fp32") is None
    assert processors._peak(vector, 0, 3e9, "fp32") is None


def test_the_power_of_a_known_processor_is_its_design_power() -> None:
    """An i7-13700 lies between its base and its turbo power; two EPYC 9654 have twice the design power of one."""
    desktop = devices.cpu_power("13th Gen Intel(R) Core(TM) i7-13700", 24, False)
    assert (desktop.max_low_w, desktop.max_high_w) == (65, 219)
    assert devices.cpu_power("AMD EPYC 9654 96-Core Processor", 384, False).max_w == 720


def test_a_virtual_machine_gets_its_share() -> None:
    """Eight of the 192 threads of an EPYC 9654 get a twenty-fourth of its power."""
    assert devices.cpu_power("AMD EPYC 9654 96-Core Processor", 8, True).max_w == pytest.approx(360 / 24)


def test_a_hidden_name_is_found_by_family_and_model() -> None:
    """A hypervisor that calls every processor "AMD EPYC" still gives family 25, model 17: the fourth generation."""
    power = devices.cpu_power("AMD EPYC", 2, True, "AuthenticAMD/25/17")
    assert power.max_w == pytest.approx(2 * 2.282)
    assert devices.cpu_power("AMD EPYC", 2, True).max_w == pytest.approx(2 * 3.5)


@pytest.mark.parametrize("name", ["i7-13700", "AMD EPYC 9755", "Intel Xeon Platinum 8375C", "AMD Ryzen 5", "whatever"])
def test_bounds_enclose_the_values(name: str) -> None:
    """Low, middle and high are in order, idle is below full load, and a source is named."""
    power = devices.cpu_power(name, 4, True)
    assert 0 < power.idle_low_w <= power.idle_w <= power.idle_high_w
    assert power.max_low_w <= power.max_w <= power.max_high_w
    assert power.idle_w <= power.max_w
    assert power.idle_low_w <= power.max_low_w
    assert power.idle_high_w <= power.max_high_w
    assert power.source


def test_this_machine_has_a_modelled_power() -> None:
    """Whatever this machine is, idle and maximum are positive and in order."""
    power = devices.cpu_power_here()
    assert 0 < power["idle_w"] < power["max_w"]
