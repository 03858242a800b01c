"""A comparison finds what got worse, and only that."""

import io
import json

import msgspec
import pytest
from rich.console import Console
from tests.bench.samples import SERVER, laptop_sweep, latencies, modelled, record, server_sweep

from wattwerk.bench.compare import compare
from wattwerk.errors import ConfigError
from wattwerk.records import Scope, Status, measured, unavailable


def _record(latency_s=1e-3, energy_j=0.1, spread=0.01, **fields):
    figures = latencies(latency_s, 1) | {
        "latency_p50_s": measured(latency_s, latency_s * (1 - spread), latency_s * (1 + spread)),
        "gpu_energy_per_inference_j": measured(
            energy_j, energy_j * (1 - spread), energy_j * (1 + spread), scope=Scope.ACCELERATOR
        ),
    }
    return record(**({"device": "cuda:0", "figures": figures} | fields))


def test_a_sweep_against_itself_shows_no_difference():
    """Every configuration finds itself, every ratio is 1 and nothing has regressed."""
    told = compare(server_sweep(), server_sweep()[::-1])
    assert len(told.rows) == 72
    assert not told.regressed
    for metric in ("speed_up", "throughput", "energy"):
        assert told.mean(metric) == pytest.approx(1)
    assert all(row.speed_up.significant is False for row in told.rows)


def test_ratios_above_one_mean_that_b_is_better():
    """Half the latency is a speed-up of 2, a quarter of the energy an energy ratio of 4."""
    row = compare([_record(2e-3, 0.4)], [_record(1e-3, 0.1)]).rows[0]
    assert row.speed_up.value == pytest.approx(2)
    assert row.throughput.value == pytest.approx(2)
    assert row.energy.value == pytest.approx(4)
    assert row.speed_up.low < 2 < row.speed_up.high
    assert row.regressions == ()


@pytest.mark.parametrize(
    ("latency_s", "energy_j", "spread", "expected"),
    [
        (1.2e-3, 0.1, 0.01, ("latency", "throughput")),  # clearly slower
        (1e-3, 0.13, 0.01, ("energy",)),  # clearly hungrier
        (1.03e-3, 0.103, 0.001, ()),  # significant, but within the tolerance
        (0.8e-3, 0.08, 0.01, ()),  # better
    ],
)
def test_regression_needs_more_than_the_tolerance(latency_s, energy_j, spread, expected):
    """Only what is worse by more than 5 % counts."""
    assert compare([_record()], [_record(latency_s, energy_j, spread)]).rows[0].regressions == expected


def test_noise_is_no_regression():
    """Ten per cent slower with intervals of twenty per cent is not called a regression of latency or energy."""
    told = compare([_record(spread=0.2)], [_record(1.1e-3, 0.11, spread=0.2)])
    assert "latency" not in told.rows[0].regressions
    assert "energy" not in told.rows[0].regressions


def test_without_intervals_the_tolerance_decides():
    """A record without bounds cannot hide a slowdown from a check."""
    plain = {"latency_p50_s": measured(1e-3)}
    slower = {"latency_p50_s": measured(1.2e-3)}
    told = compare([record(figures=plain)], [record(figures=slower)])
    assert told.rows[0].speed_up.significant is None
    assert told.regressed


def test_a_configuration_that_fails_now_has_regressed():
    """What ran before and fails now is a regression; so is what cannot be trusted any more."""
    failed = _record(status=Status.FAILED, reason="it broke", figures={})
    assert compare([_record()], [failed]).rows[0].regressions == ("status",)
    invalid = msgspec.structs.replace(_record(9e-3), status=Status.INVALID, reason="throttled")
    row = compare([_record()], [invalid]).rows[0]
    assert row.regressions == ("status",)
    assert row.notes == ("B invalid: throttled",)


def test_an_energy_that_was_lost_is_told():
    """Where A's energy has no value in B, as after a meter fell silent, the row says why instead of being fine."""
    before, name = _record(), "gpu_energy_per_inference_j"
    silent = unavailable("the meter did not give enough samples")
    after = msgspec.structs.replace(before, figures=before.figures | {name: silent})
    assert before.value(name)
    (row,) = compare([before], [after]).rows
    assert "B has no energy (accelerator, measured): the meter did not give enough samples" in row.notes
    assert not compare([before], [before]).rows[0].notes


def test_measured_and_modelled_energies_are_not_compared():
    """Different provenance or scope gives no energy ratio, and says why."""
    figures = latencies(1e-3, 1) | {"cpu_energy_per_inference_j": modelled(0.1)}
    row = compare([_record()], [record(device="cuda:0", figures=figures)]).rows[0]
    assert row.energy is None
    assert "energies of different scope or provenance are not compared" in row.notes


def test_modelled_energies_are_compared_within_their_bounds():
    """Modelled energies are compared with each other, and bounds that overlap prove no regression."""

    def model(energy_j):
        return record(figures=latencies(1e-3, 1) | {"cpu_energy_per_inference_j": modelled(energy_j)})

    row = compare([model(0.1)], [model(0.12)]).rows[0]
    assert row.energy.significant is False
    assert row.energy_basis == "processor package, modelled"
    assert row.regressions == ()


def test_sides_are_matched_by_configuration_and_the_rest_is_listed():
    """Only common configurations are compared; the others are named on their side."""
    a = [_record(), _record(precision="bf16")]
    b = [_record(), _record(precision="fp16"), _record(runtime="openvino")]
    told = compare(a, b)
    assert len(told.rows) == 1
    assert told.only_in_a == ("mobilenet-v2, onnxruntime bf16 batch 1",)
    assert told.only_in_b == ("mobilenet-v2, onnxruntime fp16 batch 1", "mobilenet-v2, openvino fp32 batch 1")


def test_of_several_runs_of_a_configuration_the_newest_counts():
    """A configuration that was measured again is compared by its last record."""
    old = msgspec.structs.replace(_record(5e-3), finished_at="2026-01-01T00:00:00+00:00", id="0" * 12)
    told = compare([_record(precision="bf16"), _record()], [old, _record()])
    assert [row.b_id for row in told.rows] == [_record().id]


def test_two_single_records_are_compared_whatever_differs():
    """Two records of different setups are compared, and what differs is listed."""
    told = compare([_record()], [_record(precision="int8", platform=SERVER)])
    assert len(told.rows) == 1
    assert "precision: fp32 → int8" in told.differences
    assert "platform: office-laptop → h200-server" in told.differences


@pytest.mark.parametrize(
    ("a", "b", "tolerance", "message"),
    [
        ([], [_record()], 0.05, "side A"),
        ([_record()], [], 0.05, "side B"),
        ([_record()], [_record()], -0.1, "tolerance"),
        ([_record()], [_record(precision="bf16"), _record(precision="fp16")], 0.05, "no configuration"),
    ],
)
def test_bad_use_has_a_message_and_a_remedy(a, b, tolerance, message):
    """Nothing to compare, nothing in common, or an impossible tolerance is bad use."""
    with pytest.raises(ConfigError, match=message) as told:
        compare(a, b, tolerance_ratio=tolerance)
    assert told.value.remedy


def test_rendering_reads_without_colour_in_80_columns():
    """The table fits 80 columns, says in words what is worse, and takes markup in names literally."""
    b = [msgspec.structs.replace(_record(2e-3), subject=msgspec.structs.replace(_record().subject, name="[red]x"))]
    console = Console(width=80, no_color=True, force_terminal=False, file=io.StringIO())
    compare([_record()], b).render(console)
    text = console.file.getvalue()
    assert "worse: latency" in " ".join(text.split())
    assert "[red]x" in text.replace("\n", "")
    assert max(len(line) for line in text.splitlines()) <= 80


def test_comparison_as_json():
    """The JSON names its ratios, its verdict and its means."""
    told = json.loads(json.dumps(compare(laptop_sweep(), laptop_sweep()).as_dict()))
    assert told["regressed"] is False
    assert told["speed_up_mean_ratio"] == pytest.approx(1)
    ran = [row for row in told["rows"] if row["speed_up"]]
    assert len(ran) == 48
    assert ran[0]["speed_up"]["value"] == pytest.approx(1)
