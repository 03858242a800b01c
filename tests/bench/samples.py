"""Synthetic records that look like real ones: the shapes of a CPU with modelled power, and of a measured H200."""

from __future__ import annotations

import hashlib
import random
from itertools import product

from wattwerk.records import (
    Accelerator,
    Figure,
    Platform,
    Provenance,
    Record,
    Scope,
    Setup,
    Status,
    Subject,
    derived,
    measured,
    unavailable,
)

LAPTOP = Platform(
    label="office-laptop",
    os="Linux",
    kernel="6.12.0",
    python="3.12.3",
    cpu="Intel Core Ultra 7 155H",
    cpu_physical_count=16,
    cpu_logical_count=22,
    memory_bytes=32 * 2**30,
    virtual_machine=True,
    packages={"onnxruntime": "1.24.1", "openvino": "2026.1.0", "torch": "2.13.0", "numpy": "2.4.0"},
)
SERVER = Platform(
    label="h200-server",
    os="Linux",
    kernel="6.8.0",
    python="3.12.3",
    cpu="AMD EPYC 9654",
    cpu_physical_count=96,
    cpu_logical_count=192,
    memory_bytes=768 * 2**30,
    virtual_machine=False,
    accelerators=[Accelerator("NVIDIA H200", "580.65.06", 141 * 10**9, 700.0)],
    packages={"torch": "2.13.0+cu130", "numpy": "2.4.0"},
)
MODELS = {
    "mobilenet-v2": Subject("mobilenet-v2", "classification", 3_504_872, 6.0e8, "seeded:0"),
    "resnet-50": Subject("resnet-50", "classification", 25_557_032, 8.2e9, "seeded:0"),
    "vit-b-16": Subject("vit-b-16", "classification", 86_567_656, 3.5e10, "seeded:0"),
}


def modelled(value: float, spread: float = 0.35, scope: Scope | None = Scope.CPU_PACKAGE) -> Figure:
    """Return a modelled figure with bounds."""
    return Figure(
        value, Provenance.MODELLED, scope, value * (1 - spread), value * (1 + spread), "power model of the CPU"
    )


def record(
    model: str = "mobilenet-v2",
    runtime: str = "onnxruntime",
    precision: str = "fp32",
    batch: int = 1,
    *,
    device: str = "cpu",
    platform: Platform = LAPTOP,
    figures: dict[str, Figure] | None = None,
    status: Status = Status.OK,
    reason: str = "",
    quick: bool = True,
    options: dict[str, object] | None = None,
    group: str = "aaaaaaaaaaaa",
) -> Record:
    """Return one record; its id follows from its content."""
    key = f"{model}{runtime}{precision}{batch}{device}{platform.label}{group}{options}{status}"
    return Record(
        id=hashlib.sha256(key.encode()).hexdigest()[:12],
        kind="bench",
        group=group,
        subject=MODELS.get(model, Subject(model)),
        platform=platform,
        setup=Setup(
            runtime=runtime,
            precision=precision,
            batch=batch,
            device=device,
            options=options or {},
            effective={"precision": precision, "device": device, "threads": 16, "streams": 1},
            protocol={
                "quick": quick,
                "warmup": 20,
                "iterations": 200,
                "windows": 5,
                "window_s": 2.0 if quick else 10.0,
                "seed": 0,
                "configuration": "0f" * 32,
            },
        ),
        started_at="2026-11-03T10:00:00.000+00:00",
        finished_at="2026-11-03T10:00:40.000+00:00",
        status=status,
        reason=reason,
        figures=figures or {},
    )


def latencies(median_s: float, batch: int, spread: float = 0.04) -> dict[str, Figure]:
    """Return the latency and throughput figures of a skewed distribution about a median."""
    mean = median_s * (1 + spread / 3)
    return {
        "latency_mean_s": measured(mean, mean * 0.995, mean * 1.005),
        "latency_std_s": measured(median_s * spread),
        "latency_p50_s": measured(median_s, median_s * 0.993, median_s * 1.008),
        "latency_p90_s": measured(median_s * (1 + 1.2 * spread)),
        "latency_p95_s": measured(median_s * (1 + 1.7 * spread)),
        "latency_p99_s": measured(median_s * (1 + 3.5 * spread)),
        "latency_min_s": measured(median_s * (1 - spread)),
        "latency_max_s": measured(median_s * (1 + 6 * spread)),
        "throughput_per_s": derived(batch / mean, batch / mean * 0.994, batch / mean * 1.006),
    }


def _cpu_energy(latency_s: float, batch: int, load: float) -> dict[str, Figure]:
    power, idle = 9 + 55 * load, 9.0
    each = power * latency_s / batch
    return {
        "idle_cpu_power_w": modelled(idle, 0.2),
        "loaded_idle_cpu_power_w": modelled(idle * 1.05, 0.2),
        "cpu_power_w": modelled(power),
        "cpu_energy_per_inference_j": modelled(each),
        "cpu_net_energy_per_inference_j": modelled((power - idle) * latency_s / batch),
        "system_power_w": modelled(power, scope=None),
        "system_energy_per_inference_j": modelled(each, scope=None),
        "system_net_energy_per_inference_j": modelled((power - idle) * latency_s / batch, scope=None),
        "system_efficiency_per_s_per_w": modelled(1 / each, scope=None),
        "gpu_power_w": unavailable("NVML: no NVIDIA driver on this machine"),
        "dram_power_w": unavailable("RAPL: /sys/class/powercap has no dram domain"),
        "cpu_utilisation_ratio": measured(load),
        "cpu_load_delta_ratio": measured(load - 0.03),
        "memory_peak_bytes": measured(2.4e8 + 9e6 * batch),
        "effective_ops_per_s": derived(6e8 * batch / latency_s),
        "sampler_overhead_ratio": measured(0.0012, -0.002, 0.0041),
        "energy_windows_count": measured(5),
        "energy_window_s": measured(2.0),
    }


def laptop_sweep(batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)) -> list[Record]:
    """Return a quick run on a CPU without sensors: every energy is modelled."""
    rng = random.Random(1)
    speed = {"onnxruntime": 5.4e-3, "openvino": 4.1e-3, "torch": 11.5e-3}
    gain = {"fp32": 1.0, "bf16": 0.72, "int8": 0.44}
    records = []
    for runtime, precision, batch in product(speed, gain, batches):
        if runtime == "onnxruntime" and precision == "bf16":
            reason = "onnxruntime cannot honour bf16 on cpu"
            records.append(
                record(runtime=runtime, precision=precision, batch=batch, reason=reason, status=Status.UNSUPPORTED)
            )
            continue
        latency_s = speed[runtime] * gain[precision] * batch**0.86 * rng.uniform(0.97, 1.03)
        load = min(0.95, 0.35 + 0.1 * batch**0.5)
        figures = latencies(latency_s, batch, 0.06) | _cpu_energy(latency_s, batch, load)
        records.append(record(runtime=runtime, precision=precision, batch=batch, figures=figures))
    rng.shuffle(records)
    return records


def _gpu_figures(latency_s: float, batch: int, power: float, flops: float) -> dict[str, Figure]:
    each, cpu_each = power * latency_s / batch, 92.0 * latency_s / batch
    net = (power - 118) * latency_s / batch
    accelerator, package = Scope.ACCELERATOR, Scope.CPU_PACKAGE
    ops = flops * batch / latency_s
    return {
        "idle_gpu_power_w": measured(76.0, 75.7, 76.3, scope=accelerator),
        "loaded_idle_gpu_power_w": measured(118.0, 117.5, 118.5, scope=accelerator),
        "gpu_power_w": measured(power, power * 0.995, power * 1.005, scope=accelerator),
        "gpu_power_integrated_w": measured(power * 1.006, scope=accelerator),
        "gpu_counter_disagreement_ratio": derived(0.006),
        "gpu_energy_per_inference_j": measured(each, each * 0.99, each * 1.01, scope=accelerator),
        "gpu_net_energy_per_inference_j": measured(net, net * 0.985, net * 1.015, scope=accelerator),
        "idle_cpu_power_w": modelled(80.0, 0.3),
        "loaded_idle_cpu_power_w": modelled(82.0, 0.3),
        "cpu_power_w": modelled(92.0, 0.3, package),
        "cpu_energy_per_inference_j": modelled(cpu_each, 0.3, package),
        "cpu_net_energy_per_inference_j": modelled(cpu_each * 0.1, 0.6, package),
        "system_power_w": modelled(power + 92, 0.06, None),
        "system_energy_per_inference_j": modelled(each + cpu_each, 0.06, None),
        "system_net_energy_per_inference_j": modelled(net + cpu_each * 0.1, 0.08, None),
        "accelerator_efficiency_per_s_per_w": derived(1 / each, 0.99 / each, 1.01 / each, scope=accelerator),
        "system_efficiency_per_s_per_w": modelled(1 / (each + cpu_each), 0.06, None),
        "gpu_utilisation_ratio": measured(min(1.0, 0.3 + batch / 64)),
        "cpu_utilisation_ratio": measured(0.011),
        "device_memory_peak_bytes": measured(4e8 + 2.2e7 * batch),
        "memory_peak_bytes": measured(2.1e9),
        "effective_ops_per_s": derived(ops),
        "peak_share_ratio": derived(ops / 9.9e14),
        "gpu_clock_sm_hz": measured(1.98e9),
        "gpu_clock_memory_hz": measured(3.2e9),
        "gpu_temperature_celsius": measured(31 + power / 25),
        "gpu_throttle_count": measured(0),
        "sampler_overhead_ratio": measured(0.0008, -0.001, 0.0025),
        "energy_windows_count": measured(5),
        "energy_window_s": measured(10.0),
    }


def server_sweep() -> list[Record]:
    """Return a full run on an H200: 3 models, 4 precisions, 2 modes, 3 batch sizes, the accelerator measured."""
    rng = random.Random(2)
    floor = {"mobilenet-v2": 2.57e-3, "resnet-50": 2.9e-3, "vit-b-16": 3.6e-3}
    each = {"mobilenet-v2": 5.2e-5, "resnet-50": 3.3e-4, "vit-b-16": 9.5e-4}
    gain = {"fp32": 1.0, "tf32": 0.55, "bf16": 0.31, "fp16": 0.3}
    records = []
    for model, runtime, precision, batch in product(floor, ("torch", "torch-compile"), gain, (1, 32, 256)):
        launch = floor[model] * (0.24 if runtime == "torch-compile" else 1.0)
        latency_s = max(launch, each[model] * batch * gain[precision]) * rng.uniform(1.0, 1.04)
        power = 150 + 480 * min(1.0, each[model] * batch * gain[precision] / latency_s)
        figures = latencies(latency_s, batch, 0.02) | _gpu_figures(latency_s, batch, power, MODELS[model].sample_flops)
        records.append(
            record(model, runtime, precision, batch, device="cuda:0", platform=SERVER, figures=figures, quick=False)
        )
    rng.shuffle(records)
    return records


def troubled_sweep() -> list[Record]:
    """Return a sweep in which things went wrong: out of memory, failed, unsupported, throttled; names are hostile."""
    nasty = '<script>alert("x")</script>&\' "</script>'
    good = [r for r in server_sweep() if r.subject.name == "resnet-50" and r.setup.precision in ("fp32", "bf16")]
    fast = latencies(1e-4, 1) | _gpu_figures(1e-4, 1, 700.0, 8.2e9)
    common = {"device": "cuda:0", "platform": SERVER, "quick": False}
    return [
        *good,
        record(
            "resnet-50",
            "torch",
            "fp32",
            4096,
            status=Status.OUT_OF_MEMORY,
            reason="CUDA out of memory: 212 GB asked for",
            **common,
        ),
        record(
            "resnet-50",
            "torch",
            "int8",
            1,
            status=Status.UNSUPPORTED,
            reason="torch cannot honour int8 on cuda:0",
            **common,
        ),
        record(
            "resnet-50",
            "openvino",
            "fp32",
            1,
            status=Status.FAILED,
            reason="the worker ended with signal 11 <b>",
            **common,
        ),
        record(
            "resnet-50",
            "torch",
            "fp16",
            1,
            status=Status.INVALID,
            reason="throttled: power cap in 3 of 5 windows",
            figures=fast,
            **common,
        ),
        record(nasty, "torch", "fp32", 1, figures=latencies(3e-3, 1) | _gpu_figures(3e-3, 1, 300.0, 1e9), **common),
    ]


def large_sweep(count: int = 500) -> list[Record]:
    """Return many records of many models, for the limits on size and time."""
    records = []
    for index in range(count):
        model, rest = f"model-{index % 8}", index // 8
        runtime = ("torch", "torch-compile", "onnxruntime")[rest % 3]
        precision = ("fp32", "tf32", "bf16", "fp16")[rest // 3 % 4]
        batch = 2 ** (rest // 12 % 6)
        latency_s = 1e-3 * (1 + index % 7) * batch**0.8
        figures = latencies(latency_s, batch) | _gpu_figures(latency_s, batch, 200.0 + index % 97, 1e9)
        records.append(record(model, runtime, precision, batch, device="cuda:0", platform=SERVER, figures=figures))
    return records
