from __future__ import annotations

from pathlib import Path

import pytest
from tests.bench.conftest import SHORT, write_tiny_onnx

from wattwerk.bench import plan
from wattwerk.bench.naming import told_apart
from wattwerk.bench.run import remaining, run_sweep
from wattwerk.bench.scenario import new_sweep
from wattwerk.bench.summary import summarise
from wattwerk.bench.together import _energies
from wattwerk.errors import ConfigError
from wattwerk.records import Figure, Provenance, Status, derived, measured
from wattwerk.store import Store
from wattwerk.testing import SmallModel


def two(tmp_path: Path) -> tuple[str, str]:
    """Write two small models of different cost."""
    small = tmp_path / "small.onnx"
    small.write_bytes(SmallModel().onnx_bytes())
    return str(write_tiny_onnx(tmp_path / "tiny.onnx")), str(small)


def test_two_models_at_once_get_a_record_each(tmp_path: Path) -> None:
    """Both know what they did alone, their shares add up to the whole, and one group holds them together."""
    asked = {"models": two(tmp_path), "together": True, "threads": (1,), "batches": (2,)}
    with Store() as store:
        sweep = new_sweep(plan.configurations_of(plan.to_request(asked)), SHORT)
        records = run_sweep(sweep, store)
        assert remaining(sweep, records) == []
    assert {record.subject.name for record in records} == {"tiny", "small"}
    assert len({record.setup.protocol["together"] for record in records}) == 1
    for record in records:
        assert record.status in (Status.OK, Status.INVALID), record.reason
        assert record.value("together_count") == 2
        alone, beside = record.value("alone_throughput_per_s"), record.value("throughput_per_s")
        assert record.value("throughput_kept_ratio") == pytest.approx((beside or 0) / (alone or 1))
        energy = record.figures["cpu_energy_per_inference_j"]
        assert energy.provenance in (Provenance.DERIVED, Provenance.MODELLED)
        assert "not measured" in str(energy.note)
        assert record.value("alone_cpu_energy_per_inference_j") is not None
    assert sum(record.value("busy_share_ratio") or 0 for record in records) == pytest.approx(1)
    assert sum(record.value("cpu_energy_share_ratio") or 0 for record in records) == pytest.approx(1, abs=0.01)
    powers = [record.value("cpu_power_w") or 0 for record in records]
    rates = [record.value("throughput_per_s") or 0 for record in records]
    energies = [record.value("cpu_energy_per_inference_j") or 0 for record in records]
    spent = sum(rate * energy for rate, energy in zip(rates, energies, strict=True))
    assert spent == pytest.approx(sum(powers) / 2, rel=0.15)  # the two windows end up to an iteration apart
    assert sorted(record.subject.name for record in told_apart(records)) == [
        "small (beside tiny)",
        "tiny (beside small)",
    ]
    told = " ".join(summarise(records).sentences)
    assert "Beside small a batch takes" in told or "No configuration gave a figure" in told


def test_energy_is_shared_by_what_the_samples_took_alone() -> None:
    """Of 30 W, 10 are drawn at rest: 5 W for each of two busy models; 20 W go 3 : 1 as their samples took alone."""
    rates, alone_net = (10.0, 20.0), (3.0, 0.5)
    shared = [_with(30 / rate, 20 / rate, rate) for rate in rates]
    alones = [{"cpu_net_energy_per_inference_j": derived(net)} for net in alone_net]
    found = [_energies("cpu", index, shared, alones, [1.0, 1.0]) for index in range(2)]
    watts = [(each["cpu_energy_per_inference_j"].value or 0) * rate for each, rate in zip(found, rates, strict=True)]
    assert watts == pytest.approx([5 + 15, 5 + 5])
    assert found[0]["cpu_energy_share_ratio"].value == pytest.approx(2 / 3)
    efficiency = found[1]["accelerator_efficiency_per_s_per_w"]
    assert efficiency.value == pytest.approx(20 / 10)
    nothing = _energies("cpu", 0, shared, [{}, {}], [1.0, 1.0])  # type: ignore[list-item]
    assert nothing["cpu_energy_share_ratio"].value == pytest.approx(0.5)
    assert "by the time of the calls" in str(nothing["cpu_energy_share_ratio"].note)


def _with(gross: float, net: float, rate: float) -> dict[str, Figure]:
    return {
        "cpu_energy_per_inference_j": measured(gross),
        "cpu_net_energy_per_inference_j": measured(net),
        "throughput_per_s": measured(rate),
        "accelerator_efficiency_per_s_per_w": derived(1 / gross),
    }


def test_a_model_that_cannot_run_fails_for_all(tmp_path: Path) -> None:
    """Where one of the models cannot be loaded, each gets a record with the reason, and the sweep goes on."""
    tiny, small = two(tmp_path)
    asked = {"models": (tiny, small), "together": True}
    with Store() as store:
        sweep = new_sweep(plan.configurations_of(plan.to_request(asked)), SHORT)
        Path(small).unlink()
        records = run_sweep(sweep, store)
    assert [record.status for record in records] == [Status.FAILED] * 2
    assert all("small.onnx" in record.reason for record in records)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"models": ("resnet-18",)}, "needs several models"),
        ({"streams": (2,)}, "does not go with --streams"),
        ({"scenarios": ("server",)}, "does not go with --scenario"),
    ],
)
def test_what_cannot_be_together_is_refused(asked: dict[str, object], told: str) -> None:
    """One model alone and other kinds of measuring are errors before anything runs."""
    plain = {"models": ("resnet-18", "mobilenet-v2"), "together": True}
    with pytest.raises(ConfigError, match=told):
        plan.configurations_of(plan.to_request(plain | asked))
