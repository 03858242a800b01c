"""The balance of a transfer: formulas, bounds, the break-even rate, the report's figures, and what is written."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.codec.samples import weights

from wattwerk.bench import transfer_codec
from wattwerk.bench.transfer import (
    TransferConfig,
    balance,
    break_even,
    preset,
    preset_names,
    report_figures,
    saving,
)
from wattwerk.bench.transfer_codec import Span, Work, modelled_energy, timed
from wattwerk.bench.transfer_run import metered_pack, transfer
from wattwerk.codec.containers import Restored, write_model
from wattwerk.codec.model_packing import PackRequest
from wattwerk.errors import ConfigError
from wattwerk.meters.base import Channel
from wattwerk.meters.trace import Trace
from wattwerk.records import Figure, Provenance, Scope, from_json, to_json

rates = st.floats(1e3, 1e12)
powers = st.floats(0.01, 1e3)
sizes = st.integers(1, 10**12)
energies = st.floats(1e-6, 1e6)
configs = st.builds(
    TransferConfig, up_bit_per_s=rates, down_bit_per_s=rates, sender_transfer_w=powers, receiver_transfer_w=powers
)


def work(value_j: float, low_j: float | None = None, high_j: float | None = None, wall_s: float = 1.0) -> Work:
    """Return work that took some energy."""
    return Work(wall_s, wall_s, Figure(value_j, Provenance.MODELLED, Scope.CPU_PACKAGE, low_j, high_j))


@given(config=configs, size=sizes, factor=st.integers(2, 9))
def test_sending_is_proportional_to_size_and_no_power_is_counted_twice(
    config: TransferConfig, size: int, factor: int
) -> None:
    """Twice the bytes take twice the time and energy; the mean power lies between those of the two devices."""
    assert config.send_j(factor * size) == pytest.approx(factor * config.send_j(size))
    assert config.send_s(factor * size) == pytest.approx(factor * config.send_s(size))
    mean_w = config.send_j(size) / config.send_s(size)
    low, high = sorted((config.sender_transfer_w, config.receiver_transfer_w))
    assert low * (1 - 1e-9) <= mean_w <= high * (1 + 1e-9)


@given(config=configs, raw=sizes, share=st.floats(0.001, 0.99), codec_j=energies)
def test_at_the_break_even_rate_both_ways_cost_the_same(
    config: TransferConfig, raw: int, share: float, codec_j: float
) -> None:
    """With both links at the rate found, raw and packed energy are equal; slower links save, faster ones lose."""
    packed = raw * share
    rate = break_even(config, raw, packed, codec_j)
    assert rate is not None

    def saved(factor: float) -> float:
        scale = rate / config.up_bit_per_s * factor
        assume(math.isfinite(scale) and scale > 0)
        at = TransferConfig(
            up_bit_per_s=config.up_bit_per_s * scale,
            down_bit_per_s=config.down_bit_per_s * scale,
            sender_transfer_w=config.sender_transfer_w,
            receiver_transfer_w=config.receiver_transfer_w,
        )
        return saving(at.send_j(raw), at.send_j(packed) + codec_j)

    assert saved(1.0) == pytest.approx(0, abs=1e-9)
    assert saved(0.5) > 0 > saved(2.0)


@given(config=configs, raw=sizes, encode=energies, decode=energies, spread=st.floats(0, 0.9))
def test_bounds_enclose_values_and_parts_add_up(
    config: TransferConfig, raw: int, encode: float, decode: float, spread: float
) -> None:
    """The packed energy is the sum of its parts, and bounds of the codec become bounds of sum, saving and rate."""
    packed = max(1, raw // 5)
    assume(packed < raw)
    works = [work(j, j * (1 - spread), j * (1 + spread)) for j in (encode, decode)]
    figures = balance(config, raw, packed, *works)
    total = figures["packed_transfer_energy_j"]
    parts = ("encode_energy_j", "send_energy_j", "decode_energy_j")
    assert total.value == pytest.approx(sum(figures[name].value or 0 for name in parts))
    for name in ("packed_transfer_energy_j", "saving_ratio", "break_even_link_rate_bit_per_s"):
        figure = figures[name]
        assert figure.value is not None
        assert figure.low is not None
        assert figure.high is not None
        slack = 1e-9 * max(abs(figure.low), abs(figure.high))
        assert figure.low - slack <= figure.value <= figure.high + slack, name
        assert figure.provenance is Provenance.MODELLED, name
    raw_j = figures["raw_transfer_energy_j"].value
    assert figures["saving_ratio"].value == pytest.approx(1 - (total.value or 0) / (raw_j or 1))


def test_no_rate_where_there_is_none() -> None:
    """A stream as large as the model never pays, a codec that costs nothing always does: no number, but a reason."""
    config = preset()
    for packed, codec_j, word in ((100, 1.0, "no smaller"), (50, 0.0, "nothing")):
        figure = balance(config, 100, packed, work(codec_j), work(codec_j))["break_even_link_rate_bit_per_s"]
        assert figure.value is None
        assert word in (figure.note or "")
    free = preset(sender_transfer_w=0.0, receiver_transfer_w=0.0)
    assert balance(free, 100, 10, work(1.0), work(1.0))["saving_ratio"].value is None


def test_the_presets_are_the_reports_numbers() -> None:
    """The default is 22.51 and 66.42 Mbit/s at 4 W; with the other power the report's raw energy comes out."""
    config = preset()
    assert (config.up_bit_per_s, config.down_bit_per_s) == (22.51e6, 66.42e6)
    assert (config.sender_transfer_w, config.receiver_transfer_w) == (4, 4)
    assert preset("eeki-energies").send_j(46.8e6) / 3600 == pytest.approx(0.0878, rel=1e-3)
    assert preset("eeki-energies").send_j(6.86e6) / 3600 == pytest.approx(0.0129, rel=5e-3)
    assert {preset(name).source for name in preset_names()} != {"given"}


def test_the_reports_saving() -> None:
    """0.0878 Wh raw against 0.0129 + 0.0466 Wh packed is the third that the report states."""
    figures = report_figures()
    assert figures["packed_transfer_energy_j"] / 3600 == pytest.approx(0.0595)
    assert figures["saving_ratio"] == pytest.approx(0.3223, abs=1e-4)


def test_changed_assumptions_are_told() -> None:
    """What replaces a preset's number is named beside its source; impossible numbers and names are refused."""
    config = preset("world", up_bit_per_s=1e6, encode_w=None)
    assert (config.up_bit_per_s, config.down_bit_per_s) == (1e6, 97.61e6)
    assert config.source.startswith("up_bit_per_s given; else Ookla")
    for changes in ({"up_bit_per_s": 0.0}, {"down_bit_per_s": math.inf}, {"encode_w": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(changes))):
            preset(**changes)
    with pytest.raises(ConfigError, match="'eeki'"):
        preset("eki")


@given(wall=st.floats(0.01, 100), load=st.floats(0.25, 1), idle=st.floats(0, 50), more=st.floats(0, 200))
def test_the_model_of_the_processor(wall: float, load: float, idle: float, more: float) -> None:
    """From one busy core to all, power grows evenly up to full power; bounds come from those of the powers."""
    cores = 4
    power = [idle / 2, idle, idle * 2, (idle + more) / 2, idle + more, (idle + more) * 2, cores]
    figure = modelled_energy(wall, load * wall * cores, power=power)
    assert figure.value == pytest.approx(wall * (idle + more * load))
    assert figure.low == pytest.approx((figure.value or 0) / 2)
    assert figure.high == pytest.approx((figure.value or 0) * 2)
    assert (figure.provenance, figure.scope) == (Provenance.MODELLED, Scope.CPU_PACKAGE)


@given(wall=st.floats(1.0, 100))
def test_waiting_for_other_programs_costs_the_codec_nothing(wall: float) -> None:
    """A second of processor time costs the same however long it took on a busy machine."""
    power = [1.0, 2.0, 3.0, 4.0, 8.0, 12.0, 2]
    assert modelled_energy(wall, 1.0, power=power) == modelled_energy(1.0, 1.0, power=power)


def test_the_fastest_run_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several runs the fastest gives the times, and all of them the span that a sensor is read over."""
    clock = iter([0, 5_000_000_000, 6_000_000_000, 9_000_000_000])
    now: list[int] = []

    def wall() -> int:
        now[:] = [next(clock)]
        return now[0]

    monkeypatch.setattr(transfer_codec.time, "perf_counter_ns", wall)
    monkeypatch.setattr(transfer_codec.time, "process_time_ns", lambda: now[0] // 2)
    span = timed(lambda: None, at_least_s=8)
    assert (span.runs, span.wall_s, span.cpu_s) == (3, 1.0, 0.5)
    assert (span.start_ns, span.end_ns) == (0, 9_000_000_000)


def test_a_sensor_goes_before_the_model() -> None:
    """A measured counter gives the energy of one run with its bounds; a modelled channel is passed over."""
    channels = [
        Channel(name="cpu_energy_j", form="counter", scope=Scope.CPU_PACKAGE, provenance=Provenance.MODELLED),
        Channel(name="board_energy_j", form="counter", scope=Scope.BOARD),
    ]
    times = np.arange(0, 11, dtype=np.int64) * 1_000_000_000
    values = np.stack([times / 1e9 * 100, times / 1e9 * 8], axis=1)
    span = Span(2_000_000_000, 8_000_000_000, 3, 2.0, 1.0)
    figure = transfer_codec._work(span, Trace(channels, times, values), None).energy
    assert figure.value == pytest.approx(6 * 8 / 3)
    assert (figure.provenance, figure.scope) == (Provenance.MEASURED, Scope.BOARD)
    assert figure.low is not None
    assert figure.low <= figure.value <= (figure.high or 0)
    modelled = transfer_codec._work(span, Trace(channels[:1], times, values[:, :1]), None).energy
    assert modelled.provenance is Provenance.MODELLED
    assert "no sensor" in (modelled.note or "")
    given_w = transfer_codec._work(span, None, 10.0).energy
    assert (given_w.value, given_w.provenance) == (20.0, Provenance.MODELLED)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a small model file."""
    path = tmp_path / "model.npz"
    write_model(path, Restored.of(weights()))
    return path


def test_a_transfer_becomes_a_record(model: Path) -> None:
    """The record holds sizes that are true, times, energies and the assumptions, and survives being written."""
    record = transfer(model, PackRequest(qp=-30), preset(), at_least_s=0.0)
    assert from_json(to_json(record)) == record
    assert record.kind == "transfer"
    assert record.value("raw_size_bytes") == model.stat().st_size
    assert record.setup.protocol["up_bit_per_s"] == 22.51e6
    assert record.setup.options == {"qp": -30}
    assert not list(model.parent.glob("*.nnc"))
    assert set(record.figures) == set(_documented())


def test_a_metered_pack_writes_its_stream(model: Path) -> None:
    """Packing under measurement leaves the same file as packing without, and tells its size."""
    done, record = metered_pack(model, None, PackRequest(), preset())
    assert Path(done.output).stat().st_size == done.output_bytes == record.value("packed_size_bytes")


def test_an_update_is_balanced_against_the_whole_model(model: Path) -> None:
    """With a base, only the update is sent and applied."""
    whole = transfer(model, PackRequest(), preset(), at_least_s=0.0)
    update = transfer(model, PackRequest(base=str(model)), preset(), at_least_s=0.0)
    assert (update.value("packed_size_bytes") or 0) < (whole.value("packed_size_bytes") or 0) / 5


def _documented() -> list[str]:
    """Return the figures that docs/records.md lists for the kind."""
    text = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")
    section = text.split("## Figures of kind `transfer`")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|`")]
    return [word.split("`")[1] for row in rows for word in row.split("|")[1].split(", ")]
