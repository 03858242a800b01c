"""Test doubles that plug in like the real thing, by import path: for our tests and for yours."""

from __future__ import annotations

import csv
import math
import os
import signal
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.errors import ConfigError, ConversionError, UnavailableError
from wattwerk.meters.base import Channel, Meter
from wattwerk.records import Accelerator, Scope
from wattwerk.registry import Probe
from wattwerk.runtimes.base import Arrays, Effective, LoadSpec, Model, Precision, Runtime, Session, TensorSpec
from wattwerk.runtimes.request import check_inputs, check_request, honoured


class FakeMeterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a fake meter pretends, and how it misbehaves.

    Attributes:
        prefix: First word of the channels' names.
        scope: What the energy covers.
        base_w: Power in the first half of each period.
        step_w: What the second half adds.
        period_s: Length of a period; the first one starts at ``perf_counter_ns() == 0``.
        tick_s: The counter moves at whole multiples of it; 0 lets it move all the time.
        accuracy_ratio: The accuracy that the channels state.
        accelerator: Name of the accelerator it pretends to watch; empty for none.
        limits: Limits that it pretends to know.
        unavailable: Whether opening fails.
        fail_every: Every how many reads one raises; 0 for never.
        fail_after: After how many reads all raise; 0 for never.
        exit_after: After how many reads the process dies; 0 for never.
        hang_after: At which read it hangs; 0 for never.
        hang_s: How long.
        lie_after: After how many reads its power is ``lie_w``; 0 for never.
        lie_w: What it is then.
        reset_after: After how many reads the counter begins again at zero; 0 for never.
        freeze_after: After how many reads all values stay as they are; 0 for never.
        interval_s: How far apart it is read, in a thread of its own; 0 reads it with all others.
        latency_s: How old its values are when it gives them.
        delay_s: How long each read takes; the values are those of its middle.
    """

    prefix: str = "fake"
    scope: Scope = Scope.ACCELERATOR
    base_w: float = 100.0
    step_w: float = 0.0
    period_s: float = 1.0
    tick_s: float = 0.0
    accuracy_ratio: float | None = None
    accelerator: str = ""
    limits: dict[str, float] = {}
    unavailable: bool = False
    fail_every: int = 0
    fail_after: int = 0
    exit_after: int = 0
    hang_after: int = 0
    hang_s: float = 3600.0
    lie_after: int = 0
    lie_w: float = -5.0
    reset_after: int = 0
    freeze_after: int = 0
    interval_s: float = 0.0
    latency_s: float = 0.0
    delay_s: float = 0.0

    def power_w(self, time_ns: int) -> float:
        """Return the true power at a time of ``perf_counter_ns``."""
        return self.base_w + (self.step_w if (time_ns / 1e9 / self.period_s) % 1 >= 0.5 else 0.0)

    def energy_j(self, start_ns: int, end_ns: int) -> float:
        """Return the true energy between two times of ``perf_counter_ns``."""
        return self.base_w * (end_ns - start_ns) / 1e9 + self._steps_j(end_ns) - self._steps_j(start_ns)

    def _steps_j(self, time_ns: int) -> float:
        periods, fraction = divmod(time_ns / 1e9 / self.period_s, 1)
        return self.step_w * self.period_s * (periods / 2 + max(0.0, fraction - 0.5))

    def counter_j(self, time_ns: int) -> float:
        """Return what the counter shows at a time: the true energy at the last tick."""
        tick_ns = round(self.tick_s * 1e9)
        return self.energy_j(0, time_ns // tick_ns * tick_ns if tick_ns else time_ns)


class FakeMeter(Meter):
    """A meter of which the truth is known: its config computes what it should have measured.

    Channels: ``<prefix>_energy_j`` and ``<prefix>_power_w``.
    """

    name: ClassVar[str] = "fake"
    config: ClassVar[type[msgspec.Struct]] = FakeMeterConfig

    @classmethod
    def probe(cls) -> Probe:
        """Tell that it always works."""
        return Probe(True, "a fake")

    def __init__(self, config: msgspec.Struct) -> None:
        """Open the meter.

        Raises:
            UnavailableError: The config says so.
        """
        assert isinstance(config, FakeMeterConfig)
        if config.unavailable:
            raise UnavailableError("the fake meter is not available", "set unavailable to false")
        self.pretence = config
        self.interval_s, self.latency_s = config.interval_s, config.latency_s
        self._reads = 0
        self._reset_j: float | None = None
        self._frozen: list[float] = []

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The counter and the gauge, in the order of ``read``."""
        its = self.pretence
        energy, power = f"{its.prefix}_energy_j", f"{its.prefix}_power_w"
        accuracy, tick_s = its.accuracy_ratio, its.tick_s or None
        return (
            Channel(name=energy, form="counter", scope=its.scope, tick_s=tick_s, accuracy_ratio=accuracy),
            Channel(name=power, form="gauge", scope=its.scope, accuracy_ratio=accuracy),
        )

    def read(self) -> list[float]:
        """Return energy since time zero in joules and power in watts, or misbehave."""
        self._reads += 1
        self._misbehave()
        its = self.pretence
        time.sleep(its.delay_s / 2)
        then_ns = time.perf_counter_ns() - round(its.latency_s * 1e9)
        time.sleep(its.delay_s / 2)
        return self._lie(its.counter_j(then_ns), its.power_w(then_ns))

    def read_counter(self, name: str) -> float:
        """Return the energy alone; does not count as a read."""
        return self.pretence.counter_j(time.perf_counter_ns())

    def accelerators(self) -> list[Accelerator]:
        """Return the accelerator that it pretends to watch."""
        its = self.pretence
        return [Accelerator(its.accelerator, prefix=its.prefix)] if its.accelerator else []

    def limits(self) -> dict[str, float]:
        """Return the limits that it pretends to know."""
        return self.pretence.limits

    def _lie(self, energy_j: float, power_w: float) -> list[float]:
        its, reads = self.pretence, self._reads
        if its.reset_after and reads > its.reset_after:
            self._reset_j = energy_j if self._reset_j is None else self._reset_j
            energy_j -= self._reset_j
        if its.lie_after and reads > its.lie_after:
            power_w = its.lie_w
        if its.freeze_after and reads > its.freeze_after:
            return self._frozen
        self._frozen = [energy_j, power_w]
        return self._frozen

    def _misbehave(self) -> None:
        its, reads = self.pretence, self._reads
        if its.exit_after and reads > its.exit_after:
            os._exit(7)
        if reads == its.hang_after:
            time.sleep(its.hang_s)
        if (its.fail_every and reads % its.fail_every == 0) or (its.fail_after and reads > its.fail_after):
            raise OSError("the fake meter fails, as asked")


class ReplayMeterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a replay meter plays.

    Attributes:
        path: A trace as JSON (``Trace.to_json``), or a CSV file whose first column is ``time_s`` and whose other
            columns are named like channels; columns in joules are counters.
        speed: How many recorded seconds pass in one second.
    """

    path: str
    speed: float = 1.0


class _Recorded(msgspec.Struct):
    """The part of a trace's JSON that is played."""

    channels: list[Channel]
    time_ns: list[int]
    values: list[list[float | None]]


def _read_csv(text: str) -> _Recorded:
    header, *rows = csv.reader(text.splitlines())
    if header[:1] != ["time_s"]:
        raise ValueError("its first column is not time_s")
    times = [round(float(row[0]) * 1e9) for row in rows]
    values = [[float(cell) if cell else None for cell in row[1:]] for row in rows]
    return _Recorded([_csv_channel(name) for name in header[1:]], times, values)


def _csv_channel(name: str) -> Channel:
    """Guess what a column is from its name; a CSV file has no place to say."""
    scopes = {"gpu": Scope.ACCELERATOR, "cpu": Scope.CPU_PACKAGE, "dram": Scope.DRAM, "wall": Scope.WALL}
    electric = name.endswith(("_j", "_w"))
    scope = next((scope for word, scope in scopes.items() if name.startswith(word)), Scope.NODE)
    return Channel(name=name, form="counter" if name.endswith("_j") else "gauge", scope=scope if electric else None)


class ReplayMeter(Meter):
    """Play a recorded trace: the last recorded sample at each moment, NaN after the end."""

    name: ClassVar[str] = "replay"
    config: ClassVar[type[msgspec.Struct]] = ReplayMeterConfig

    @classmethod
    def probe(cls) -> Probe:
        """Tell that it always works."""
        return Probe(True, "plays a recorded trace")

    def __init__(self, config: msgspec.Struct) -> None:
        """Open the recording; its first sample is now.

        Raises:
            ConfigError: The file cannot be read or is no recording.
        """
        assert isinstance(config, ReplayMeterConfig)
        try:
            text = Path(config.path).read_text(encoding="utf-8")
            csv_file = config.path.endswith(".csv")
            self._recorded = _read_csv(text) if csv_file else msgspec.json.decode(text, type=_Recorded)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            raise ConfigError(f"cannot replay {config.path} ({error})", "give a recorded JSON or CSV trace") from error
        self._speed = config.speed
        self._start_ns = time.perf_counter_ns()

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The recorded channels, in the order of ``read``."""
        return tuple(self._recorded.channels)

    def read(self) -> list[float]:
        """Return the recorded values of this moment, in SI units."""
        times = self._recorded.time_ns
        passed_ns = (time.perf_counter_ns() - self._start_ns) * self._speed
        row = bisect_right(times, times[0] + passed_ns) - 1 if times else -1
        if row < 0 or times[0] + passed_ns > times[-1]:
            return [math.nan] * len(self.channels)
        return [math.nan if value is None else value for value in self._recorded.values[row]]


# --- runtimes ---------------------------------------------------------------------------------------------------------


class FakeRuntimeConfig(msgspec.Struct, frozen=True):
    """What a fake runtime pretends, and how it fails.

    Attributes:
        latency_s: How long one iteration keeps the processor busy.
        fail: ``memory``, ``convert``, ``crash`` (the process dies with exit code 70), ``kill`` (by SIGKILL,
            as when memory runs out) or ``hang``; empty for never.
        fail_from_batch: The smallest batch that fails.
        fail_at: Whether it fails when the model is loaded or when a timed call runs.
        hang_s: How long it hangs.
        tell: What it tells of itself besides: ``unstorable``, what JSON cannot hold, or ``unreadable``, what another
            process cannot read; empty for nothing odd.
    """

    latency_s: float = 0.001
    fail: Literal["", "memory", "convert", "crash", "kill", "hang"] = ""
    fail_from_batch: int = 1
    fail_at: Literal["load", "run"] = "load"
    hang_s: float = 3600.0
    tell: Literal["", "unstorable", "unreadable"] = ""


class FakeRuntime(Runtime):
    """A runtime that needs no library: every output is the mean and the largest value of each sample's inputs."""

    name: ClassVar[str] = "fake"
    family: ClassVar[str] = "fake"
    config: ClassVar[type[msgspec.Struct]] = FakeRuntimeConfig

    @classmethod
    def probe(cls) -> Probe:
        """Say that it always works."""
        return Probe(True, "always there")

    @classmethod
    def devices(cls) -> list[str]:
        """Return the one device, ``cpu``."""
        return ["cpu"]

    @classmethod
    def precisions(cls, device: str) -> list[Precision]:
        """Return all precisions but TF32."""
        return honoured(cls._refusals(device)) if device in cls.devices() else []

    @classmethod
    def load(cls, model: Model, spec: LoadSpec) -> Session:
        """Load a model, or fail as the options say.

        Raises:
            ConfigError: An option or the device is unknown.
            UnavailableError: TF32 is asked for.
            ConversionError: ``fail`` is ``convert``.
            MemoryError: ``fail`` is ``memory``.
        """
        config = check_request(cls, spec, FakeRuntimeConfig, cls._refusals)
        fails = bool(config.fail) and spec.batch >= config.fail_from_batch
        if fails and config.fail_at == "load":
            _fail(config, model.name)
        return _FakeSession(model, spec, config, fails)

    @staticmethod
    def _refusals(device: str) -> dict[Precision, str]:
        return {Precision.TF32: f"the fake runtime refuses it on {device}, to have something to refuse"}


def _fail(config: FakeRuntimeConfig, name: str) -> None:
    if config.fail == "memory":
        raise MemoryError(f"{name} does not fit (pretended)")
    if config.fail == "convert":
        raise ConversionError(f"cannot take {name} (pretended)", "leave the option fail out")
    if config.fail == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.fail == "crash":
        os._exit(70)
    time.sleep(config.hang_s)


class _Unreadable:
    """What can be pickled and not be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


class _FakeSession(Session):
    """Computes two numbers for each sample, then keeps busy for the rest of the latency."""

    def __init__(self, model: Model, spec: LoadSpec, config: FakeRuntimeConfig, fails: bool) -> None:
        self._model, self._spec, self._config, self._fails = model, spec, config, fails
        self._latest: npt.NDArray[np.float32] = np.empty((spec.batch, 2), np.float32)
        odd: dict[str, Any] = {"unstorable": np.float32(1), "unreadable": _Unreadable()}
        details = {"fake": True} | ({"odd": odd[config.tell]} if config.tell else {})
        self.effective = Effective(
            precision=spec.precision, device=spec.device, threads=spec.threads or 1, streams=1, details=details
        )

    def bind(self, inputs: Arrays) -> Callable[[], object]:
        """Copy the inputs and return the timed call."""
        arrays = check_inputs(self._model.inputs, self._spec.batch, inputs)
        flat: npt.NDArray[Any] = np.concatenate([each.reshape(self._spec.batch, -1) for each in arrays], axis=1)

        def call() -> None:
            end_ns = time.perf_counter_ns() + round(self._config.latency_s * 1e9)
            if self._fails and self._config.fail_at == "run":
                _fail(self._config, self._model.name)
            self._latest = np.stack([flat.mean(axis=1), flat.max(axis=1)], axis=1).astype(np.float32)
            while time.perf_counter_ns() < end_ns:
                pass

        return call

    def bound_outputs(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return what the latest timed call computed, float32 (batch, 2) for every output."""
        return {name: self._latest.copy() for name in self._model.output_names()}

    def close(self) -> None:
        """Do nothing, any number of times."""


class SmallModel:
    """A model small enough to try every runtime with, in ONNX and in torch form with the same weights.

    Two convolutions with ReLU, the mean over the image, a matrix product: float32 (batch, 3, 24, 24) to (batch, 10).
    """

    name = "small-model"
    inputs = (TensorSpec("image", (3, 24, 24)),)

    def __init__(self) -> None:
        random = np.random.default_rng(7)
        self._weights: dict[str, npt.NDArray[np.float32]] = {}
        for index, shape in enumerate([(16, 3, 3, 3), (32, 16, 3, 3), (10, 32)], start=1):
            scale = (2 / np.prod(shape[1:])) ** 0.5  # keeps the spread from layer to layer (He et al. 2015)
            self._weights[f"w{index}"] = (random.standard_normal(shape) * scale).astype(np.float32)
            self._weights[f"b{index}"] = (random.standard_normal(shape[0]) * 0.1).astype(np.float32)

    def output_names(self) -> tuple[str, ...]:
        """Return the one output's name."""
        return ("scores",)

    def samples(self, batch: int, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
        """Return random inputs, float32 (batch, 3, 24, 24)."""
        image = np.random.default_rng(seed).standard_normal((batch, 3, 24, 24))
        return {"image": image.astype(np.float32)}

    def calibration(self) -> Iterator[Arrays]:
        """Give eight samples of batch 1."""
        return (self.samples(1, seed) for seed in range(100, 108))

    def onnx_bytes(self) -> bytes:
        """Return the model as serialised ONNX with a dynamic batch."""
        from onnx import TensorProto, helper, numpy_helper

        nodes = [
            helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c2"], ["r2"]),
            helper.make_node("GlobalAveragePool", ["r2"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w3", "b3"], ["scores"], transB=1),
        ]
        graph = helper.make_graph(
            nodes,
            self.name,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 24, 24])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
            [numpy_helper.from_array(array, name) for name, array in self._weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())

    def torch_module(self) -> Any:
        """Return the model as a torch module in eval mode."""
        import torch
        from torch import nn

        module = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
        )
        with torch.no_grad():
            for parameter, array in zip(module.parameters(), self._weights.values(), strict=True):
                parameter.copy_(torch.tensor(array))
        return module.eval()
