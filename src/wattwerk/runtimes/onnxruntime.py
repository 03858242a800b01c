"""ONNX Runtime, with every execution provider that is installed."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.registry import Probe
from wattwerk.runtimes.base import Arrays, Effective, LoadSpec, Model, Precision, Runtime, Session
from wattwerk.runtimes.cuda_address import cuda_address
from wattwerk.runtimes.onnxruntime_graph import Census, take_census, to_float16, to_int8, with_batch
from wattwerk.runtimes.onnxruntime_providers import PROVIDERS, Conversion, Provider, provider_of
from wattwerk.runtimes.request import (
    calibration_samples,
    check_inputs,
    check_request,
    failures,
    honoured,
    probe_package,
    quiet,
)

#: below this share of the heavy operators a precision is not what the session runs in
_LEAST_SHARE: Final = {Precision.INT8: 0.5}
_CALIBRATION_LIMIT: Final = 32
_OPTIMIZATION: Final = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


class OnnxRuntimeConfig(msgspec.Struct, frozen=True):
    """Options of ONNX Runtime.

    Attributes:
        optimization: How far the graph is optimised when it is loaded.
        spinning: Whether idle threads spin while they wait for work: quicker, but takes power.
        reduce_range: int8: whether weights use 7 bits, against overflow on x86 processors without VNNI.
        provider_options: More options for the execution provider, as its documentation names them.
    """

    optimization: Literal["none", "basic", "extended", "all"] = "all"
    spinning: bool = True
    reduce_range: bool = False
    provider_options: dict[str, str] = {}


class OnnxRuntime(Runtime):
    """ONNX Runtime; its devices are those of the installed execution providers."""

    name: ClassVar[str] = "onnxruntime"
    family: ClassVar[str] = "onnxruntime"
    config: ClassVar[type[msgspec.Struct]] = OnnxRuntimeConfig

    @classmethod
    def probe(cls) -> Probe:
        """Tell whether the packages are there."""
        return probe_package("onnxruntime", "pip install onnxruntime", "onnx")

    @classmethod
    def devices(cls) -> list[str]:
        """Return the devices of the installed execution providers."""
        if not cls.probe().available:
            return []
        import onnxruntime

        installed = onnxruntime.get_available_providers()
        return [device for row in PROVIDERS if row.name in installed for device in row.devices()]

    @classmethod
    def precisions(cls, device: str) -> list[Precision]:
        """Return the precisions that the device's execution provider can honour."""
        return honoured(provider_of(device).refused()) if device in cls.devices() else []

    @classmethod
    def load(cls, model: Model, spec: LoadSpec) -> Session:
        """Load a model; the batch dimension becomes static.

        Raises:
            ConfigError: An option or the device is unknown.
            UnavailableError: The precision or the execution provider cannot be had here.
            ConversionError: ONNX Runtime cannot take this model.
            MemoryError: The model does not fit.
        """
        config = check_request(cls, spec, OnnxRuntimeConfig, lambda device: provider_of(device).refused())
        row = provider_of(spec.device)
        options = _provider_options(row, spec, config)
        with failures(model, spec, "ONNX Runtime"), quiet():
            return _OnnxSession(model, spec, row, options, config)


def _provider_options(row: Provider, spec: LoadSpec, config: OnnxRuntimeConfig) -> dict[str, str]:
    fixed = row.options(spec.device, spec.precision)
    for key, value in config.provider_options.items():
        if fixed.get(key, value) != value:
            raise ConfigError(
                f"provider option {key}={value} contradicts {spec.precision} on {spec.device}", f"leave {key} out"
            )
    return {**config.provider_options, **fixed}


def _serialised(model: Model, spec: LoadSpec, conversion: Conversion, config: OnnxRuntimeConfig) -> bytes:
    import onnx

    graph = onnx.load_from_string(model.onnx_bytes())
    if conversion in (Conversion.QDQ, Conversion.QDQ_SYMMETRIC):
        samples = calibration_samples(spec, _CALIBRATION_LIMIT)
        symmetric = conversion is Conversion.QDQ_SYMMETRIC
        graph = onnx.load_from_string(to_int8(graph, samples, config.reduce_range, symmetric))
    if conversion is Conversion.FLOAT16:
        graph = to_float16(graph)
    return bytes(with_batch(graph, spec.batch).SerializeToString())


def _thread_count() -> int:
    import psutil

    return int(psutil.Process().num_threads())


class _OnnxSession(Session):
    """A session whose inputs and outputs stay bound to memory of the device."""

    def __init__(
        self, model: Model, spec: LoadSpec, row: Provider, options: dict[str, str], config: OnnxRuntimeConfig
    ) -> None:
        self._model, self._spec, self._row = model, spec, row
        self._device_id = int(options.get("device_id", 0))
        data = _serialised(model, spec, row.settings[spec.precision].conversion, config)
        with tempfile.TemporaryDirectory(prefix="wattwerk-profile-") as folder:
            before = _thread_count()
            self._session: Any = self._create(data, options, config, folder)
            # ONNX Runtime does not tell how many threads it took, but they can be counted: its own, and the caller's
            threads = spec.threads or max(1, _thread_count() - before + 1)
            self._binding: Any = None
            self._inputs: list[Any] = []
            self._shared: tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]] = ({}, {})
            census = self._first_run(folder)
        self.effective = Effective(
            precision=self._confirmed(census),
            device=spec.device,
            threads=threads if row.prefix == "cpu" else None,
            streams=1,
            details=self._details(census, config),
        )

    def _create(self, data: bytes, options: dict[str, str], config: OnnxRuntimeConfig, folder: str) -> Any:
        import onnxruntime

        chosen = onnxruntime.SessionOptions()
        chosen.log_severity_level = 4  # fatal only: everything else arrives as an exception, or is checked below
        chosen.intra_op_num_threads = self._spec.threads or 0
        chosen.graph_optimization_level = getattr(
            onnxruntime.GraphOptimizationLevel, _OPTIMIZATION[config.optimization]
        )
        chosen.add_session_config_entry("session.intra_op.allow_spinning", str(int(config.spinning)))
        chosen.enable_profiling = True  # for the first run only: it shows what really runs where
        chosen.profile_file_prefix = str(Path(folder) / "run")
        # without enable_fallback=0 a failing provider is replaced by the CPU, with a line on the terminal
        session = onnxruntime.InferenceSession(data, chosen, providers=[(self._row.name, options)], enable_fallback=0)
        session.disable_fallback()
        used = session.get_providers()[0]
        if used != self._row.name:
            raise UnavailableError(
                f"{self._row.name} could not be started, {used} would run instead",
                "check that the provider's own libraries and driver are installed",
            )
        return session

    def _first_run(self, folder: str) -> Census:
        blank = {
            each.name: np.zeros((self._spec.batch, *each.shape), np.dtype(each.dtype)) for each in self._model.inputs
        }
        self.bind(blank)  # runs once itself
        self._session.end_profiling()
        return take_census("".join(each.read_text() for each in Path(folder).glob("*.json")))

    def _confirmed(self, census: Census) -> Precision:
        asked = self._spec.precision
        strayed = {name: count for name, count in census.providers.items() if name != self._row.name}
        if strayed:
            parts = ", ".join(f"{count} on {name}" for name, count in strayed.items())
            raise UnavailableError(
                f"{self._row.name} does not run all heavy operators of {self._model.name} ({parts} of {census.count})",
                "use another device, or simplify the model",
            )
        # what a profile calls float is TF32 where the provider option allows it
        seen = Precision.FP32 if asked is Precision.TF32 else asked
        share = census.share.get(seen, 0.0)
        if census.count and not self._row.opaque and share < _LEAST_SHARE.get(asked, 1.0):
            kinds = ", ".join(f"{value:.0%} {name}" for name, value in sorted(census.share.items()))
            raise UnavailableError(
                f"{self._model.name} would not run in {asked} on {self._spec.device}: heavy operators run as {kinds}",
                "use another precision or runtime",
            )
        return asked

    def _details(self, census: Census, config: OnnxRuntimeConfig) -> dict[str, str | int | float | bool | None]:
        import onnxruntime

        seen = Precision.FP32 if self._spec.precision is Precision.TF32 else self._spec.precision
        checked = census.count > 0 and not self._row.opaque
        return {
            "version": onnxruntime.__version__,
            "provider": self._row.name,
            "optimization": config.optimization,
            "spinning": config.spinning,
            "heavy_operators_count": census.count,
            "heavy_operators_at_precision_ratio": round(census.share.get(seen, 0.0), 4) if checked else None,
            "precision_evidence": "profile of a run" if checked else "provider options",
        }

    def bind(self, inputs: Arrays) -> Callable[[], object]:
        """Copy the inputs to the device, reserve the outputs there, and return the timed call.

        Raises:
            ConfigError: An input is missing, unknown or of the wrong shape.
            MemoryError: The batch does not fit.
        """
        arrays = check_inputs(self._model.inputs, self._spec.batch, inputs)
        with failures(self._model, self._spec, "ONNX Runtime"):
            self._binding = self._bound(arrays)
            call = functools.partial(self._session.run_with_iobinding, self._binding)
            call()
        return call

    def _bound(self, arrays: list[npt.NDArray[Any]]) -> Any:
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        place = (self._row.memory, self._device_id)
        self._inputs, self._shared = [], ({}, {})
        for node, array in zip(self._session.get_inputs(), arrays, strict=True):
            wanted = array.astype(np.float16) if node.type == "tensor(float16)" else array
            self._inputs.append(OrtValue.ortvalue_from_numpy(wanted, *place))
            self._shared[0][node.name] = wanted  # in the host's memory an OrtValue of an array is that array itself
            binding.bind_ortvalue_input(node.name, self._inputs[-1])
        for node in self._session.get_outputs():
            dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}.get(node.type)
            if dtype and all(isinstance(dim, int) for dim in node.shape):
                self._shared[1][node.name] = np.empty(node.shape if self._on_host else 0, dtype)
                reserved = (
                    OrtValue.ortvalue_from_numpy(self._shared[1][node.name], *place)
                    if self._on_host
                    else OrtValue.ortvalue_from_shape_and_type(node.shape, dtype, *place)
                )
                binding.bind_ortvalue_output(node.name, reserved)
            else:
                binding.bind_output(node.name, *place)
        return binding

    @property
    def _on_host(self) -> bool:
        return bool(self._row.memory == "cpu")

    def refill(self, inputs: Arrays) -> Callable[[], object]:
        """Copy another batch into the bound inputs.

        Raises:
            ConfigError: An input is missing, unknown or of the wrong shape.
        """
        arrays = check_inputs(self._model.inputs, self._spec.batch, inputs)
        for node, value, array in zip(self._session.get_inputs(), self._inputs, arrays, strict=True):
            value.update_inplace(array.astype(np.float16) if node.type == "tensor(float16)" else array)
        return functools.partial(self._session.run_with_iobinding, self._binding)

    def shared_inputs(self) -> dict[str, Any] | None:
        """Return the arrays that the bound call reads; on the CPU only."""
        plain = self._on_host and not any(array.dtype == np.float16 for array in self._shared[0].values())
        return dict(self._shared[0]) if plain else None

    def shared_outputs(self) -> dict[str, Any] | None:
        """Return the arrays that the bound call writes; on the CPU, and where the shapes are known before."""
        known = self._on_host and len(self._shared[1]) == len(self._session.get_outputs())
        return dict(self._shared[1]) if known else None

    def bound_outputs(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return what the latest timed call computed."""
        names = [node.name for node in self._session.get_outputs()]
        arrays = self._binding.copy_outputs_to_cpu()
        return {name: np.asarray(array, np.float32) for name, array in zip(names, arrays, strict=True)}

    def device_address(self) -> str:
        """Return the PCI address of an NVIDIA GPU."""
        return cuda_address(self._spec.device) if self._row.memory == "cuda" else ""

    def close(self) -> None:
        """Release the session; nothing happens the second time."""
        self._binding = None
        self._session = None
