"""The summary ranks what may be ranked, tells the distance from the default, and never mixes the incomparable."""

import json

import msgspec
import pytest
from tests.bench.samples import LAPTOP, laptop_sweep, latencies, modelled, record, server_sweep, troubled_sweep

from wattwerk.bench.summary import quick_sentence, summarise
from wattwerk.records import Provenance, Scope, Status, measured


def _choice(summary, goal, model=0):
    return next(choice for choice in summary.models[model].choices if choice.goal == goal)


def _gpu(latency_s, energy_j, **fields):
    figures = latencies(latency_s, fields.get("batch", 1))
    figures["gpu_energy_per_inference_j"] = measured(
        energy_j, energy_j * 0.99, energy_j * 1.01, scope=Scope.ACCELERATOR
    )
    return record(device="cuda:0", figures=figures, quick=False, **fields)


def test_fastest_is_the_smallest_median_and_its_gain_counts_from_the_default():
    """The study's example is told as a person would: 0.60 ms, 4.3 times faster than 2.57 ms."""
    summary = summarise([_gpu(2.57e-3, 0.406, runtime="torch"), _gpu(0.6e-3, 0.099, runtime="torch", precision="bf16")])
    fastest = _choice(summary, "latency")
    assert fastest.gain_ratio == pytest.approx(2.57 / 0.6)
    assert fastest.text == (
        "Fastest: torch bf16 batch 1: 600 µs, 4.3× faster than the default (torch fp32 batch 1: 2.57 ms)."
    )
    energy = _choice(summary, "energy")
    assert energy.gain_ratio == pytest.approx(0.406 / 0.099)
    assert "99.0 mJ (accelerator, measured), 4.1× less energy" in energy.text


def test_order_of_the_records_does_not_matter():
    """A sweep runs in random order; the summary is the same for every order."""
    records = server_sweep()
    assert summarise(records).models == summarise(records[::-1]).models


def test_best_values_are_really_the_best():
    """For every model and goal no valid record beats the chosen one."""
    records = server_sweep()
    for model in summarise(records).models:
        mine = [r for r in records if r.subject.name == model.model]
        for choice in model.choices:
            same_batch = choice.goal == "energy_at_batch"
            values = [r.value(choice.figure) for r in mine if r.setup.batch == 1 or not same_batch]
            assert choice.value == (max(values) if choice.goal == "throughput" else min(values))


def test_default_is_plain_fp32_at_the_smallest_batch():
    """Without a choice by the caller, gains count from the plainest runtime in fp32 at the smallest batch."""
    assert summarise(laptop_sweep()).models[0].default_configuration == "torch fp32 batch 1"
    compiled = _gpu(1e-3, 0.1, runtime="torch", options={"mode": "compile"})
    eager = _gpu(2e-3, 0.2, runtime="torch")
    assert summarise([compiled, eager]).models[0].default_id == eager.id


def test_callers_default_holds_and_carries_over_to_other_models():
    """The caller's default is used as it is; for another model its runtime and precision are."""
    records = server_sweep()
    chosen = next(r for r in records if r.setup.runtime == "torch-compile" and r.setup.precision == "bf16")
    summary = summarise(records, default=chosen)
    for model in summary.models:
        if model.model == chosen.subject.name:
            assert model.default_id == chosen.id
        else:
            assert model.default_configuration == "torch-compile bf16 batch 1"


def test_invalid_and_failed_records_are_never_ranked_but_always_told():
    """A throttled record with the best figures of all wins nothing, and every reason stands in the words."""
    records = troubled_sweep()
    summary = summarise(records)
    bad = {r.id for r in records if r.status is not Status.OK}
    assert not bad & {choice.record_id for model in summary.models for choice in model.choices}
    assert {exclusion.record_id for exclusion in summary.exclusions} == bad
    told = " ".join(summary.sentences)
    for r in records:
        assert r.reason in told
    assert summary.counts == {"ok": 13, "out_of_memory": 1, "unsupported": 1, "failed": 1, "invalid": 1}


def test_measured_energy_is_never_ranked_against_modelled():
    """A modelled energy far below the measured ones is left out of their ranking, and that is said."""
    wall = [
        record(precision=p, figures=latencies(t, 1) | {"wall_energy_per_inference_j": measured(e, e * 0.98, e * 1.02)})
        for p, t, e in (("fp32", 5e-3, 0.5), ("bf16", 4e-3, 0.4))
    ]
    guess = record(precision="int8", figures=latencies(3e-3, 1) | {"wall_energy_per_inference_j": modelled(0.001)})
    summary = summarise([*wall, guess])
    energy = _choice(summary, "energy")
    assert energy.record_id == wall[1].id
    assert energy.provenance is Provenance.MEASURED
    assert "1 of 3 are not in the energy ranking: no energy at the wall, measured." in summary.sentences


def test_wider_scope_wins_over_narrower():
    """Where wall and accelerator energies are both measured, the wall's decides, although it is larger."""

    def both(precision, wall_j, gpu_j):
        figures = latencies(1e-3, 1) | {
            "wall_energy_per_inference_j": measured(wall_j, wall_j * 0.99, wall_j * 1.01, scope=Scope.WALL),
            "gpu_energy_per_inference_j": measured(gpu_j, gpu_j * 0.99, gpu_j * 1.01, scope=Scope.ACCELERATOR),
        }
        return record(precision=precision, device="cuda:0", figures=figures)

    energy = _choice(summarise([both("fp32", 1.0, 0.2), both("fp16", 0.9, 0.3)]), "energy")
    assert (energy.figure, energy.value) == ("wall_energy_per_inference_j", 0.9)


def test_accelerator_energy_of_a_run_on_the_processor_does_not_count():
    """An idle GPU's small energy does not make the processor the most frugal device."""
    on_gpu = _gpu(1e-3, 0.2)
    idle_gpu = {"gpu_energy_per_inference_j": measured(0.05, scope=Scope.ACCELERATOR)}
    on_cpu = record(device="cpu", runtime="openvino", figures=latencies(9e-3, 1) | idle_gpu)
    assert _choice(summarise([on_gpu, on_cpu]), "energy").record_id == on_gpu.id


def test_modelled_energy_is_called_so_with_its_bounds():
    """Words about a modelled energy say "modelled" and give its bounds."""
    text = _choice(summarise(laptop_sweep()), "energy").text
    assert "(system, modelled: 36.8 mJ to 76.5 mJ)" in text


def test_modelled_gain_within_the_bounds_is_told_with_its_doubt():
    """Half the energy by a model with bounds of 50 % is told as a gain that is not significant."""

    def model(precision, energy_j):
        energy = {"cpu_energy_per_inference_j": modelled(energy_j, 0.5)}
        return record(precision=precision, figures=latencies(1e-3, 1) | energy)

    energy = _choice(summarise([model("fp32", 0.2), model("int8", 0.1)]), "energy")
    assert energy.gain_significant is False
    assert energy.text.endswith(
        "2.0× less energy than the default (onnxruntime fp32 batch 1: 200 mJ); "
        "not significant, because the bounds of the model overlap."
    )


def test_overlapping_intervals_are_no_difference():
    """One per cent apart with bounds of five is told as no significant difference."""

    def wide(precision, median):
        figures = latencies(median, 1) | {"latency_p50_s": measured(median, median * 0.95, median * 1.05)}
        return record(precision=precision, figures=figures)

    fastest = _choice(summarise([wide("fp32", 1.01e-3), wide("bf16", 1e-3)]), "latency")
    assert fastest.gain_significant is False
    assert "no significant difference from the default (onnxruntime fp32 batch 1: 1.01 ms)" in fastest.text


def test_names_mention_only_what_differs():
    """Devices are named where there are several, and OpenVINO's "CPU" is the same device as "cpu"."""
    cpu = record(figures=latencies(1e-3, 1))
    openvino = msgspec.structs.replace(
        record(runtime="openvino", figures=latencies(2e-3, 1)),
        setup=msgspec.structs.replace(cpu.setup, runtime="openvino", device="CPU", effective={"device": "CPU"}),
    )
    assert _choice(summarise([cpu, openvino]), "latency").configuration == "onnxruntime fp32 batch 1"
    both = summarise([cpu, _gpu(5e-4, 0.1)])
    assert _choice(both, "latency").configuration == "onnxruntime fp32 batch 1 (cuda:0)"


def test_quick_mode_is_told():
    """A quick run says so; a full run does not."""
    assert quick_sentence() in summarise(laptop_sweep()).sentences
    assert quick_sentence() not in summarise(server_sweep()).sentences


def test_one_record_and_none():
    """One record is the only one, not the best of all; no record gives an empty summary."""
    summary = summarise([record(figures=latencies(1e-3, 1), platform=LAPTOP)])
    assert summary.sentences[0] == "Fastest: onnxruntime fp32 batch 1: 1.00 ms, the only one."
    assert "Energy is unavailable for every configuration." in summary.sentences
    assert summarise([]).sentences == ()


def test_only_failures_are_told_without_a_ranking():
    """Where everything failed, the words say so and why."""
    summary = summarise([record(status=Status.FAILED, reason="it broke")])
    assert summary.models[0].choices == ()
    assert "1 of 1 failed: it broke." in summary.sentences


def test_what_is_not_ranked_is_named():
    """A reason that one configuration has alone names it; one that several share is counted."""
    broken = [record(status=Status.FAILED, reason="it broke", batch=batch) for batch in (1, 2)]
    slow = record(status=Status.INVALID, reason="throttled", batch=4)
    told = summarise([*broken, slow]).sentences
    assert "2 of 3 failed: it broke (2×)." in told
    assert "1 of 3 invalid (kept, shown, not ranked): throttled (mobilenet-v2, onnxruntime fp32 batch 4)." in told


def test_summary_as_json():
    """The summary survives JSON and names its figures with their units."""
    told = json.loads(json.dumps(summarise(laptop_sweep()).as_dict()))
    assert told["models"][0]["choices"][0]["figure"] == "latency_p50_s"


def test_energy_is_also_told_at_the_defaults_batch() -> None:
    """Where batches differ, a further choice compares the energy at the default's own batch size."""
    records = server_sweep()
    for model in summarise(records).models:
        (choice,) = [choice for choice in model.choices if choice.goal == "energy_at_batch"]
        chosen = next(record for record in records if record.id == choice.record_id)
        rivals = [record for record in records if record.subject.name == model.model and record.setup.batch == 1]
        assert chosen.setup.batch == 1
        assert choice.value == min(record.value(choice.figure) for record in rivals if record.status is Status.OK)
