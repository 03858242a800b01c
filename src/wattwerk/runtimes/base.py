"""What every runtime offers: a probe, its devices, and sessions that say what they really do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.records import TensorSpec as TensorSpec
from wattwerk.registry import Probe

Arrays = Mapping[str, npt.NDArray[Any]]


class Precision(StrEnum):
    """The arithmetic of the heavy operators (convolutions and matrix products)."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"


class Model(Protocol):
    """What a runtime needs to know of a model; the catalog's models fit."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs, without the batch dimension."""

    def onnx_bytes(self) -> bytes:
        """Return the model as serialised ONNX: fp32, with weights, the first dimension of every input dynamic."""

    def torch_module(self) -> Any:
        """Return the model as a ``torch.nn.Module`` in eval mode, fp32, on the CPU, called with the inputs in order.

        It returns a tensor, or a tuple of tensors in the order of the ONNX outputs.

        Raises:
            UnavailableError: There is no torch form of this model, or torch is not installed.
        """

    def output_names(self) -> tuple[str, ...]:
        """Return the names of the ONNX outputs, in order."""


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How a session is to run.

    Attributes:
        precision: The arithmetic asked for; a runtime that would silently do something else refuses.
        batch: Samples in one iteration.
        device: As ``Runtime.devices`` names it.
        threads: Compute threads on the CPU; None leaves the choice to the runtime.
        options: The runtime's own options, fitting its ``config`` type.
        calibration: Gives the inputs (batch 1) that int8 quantisation is calibrated with.
        concurrent: Whether other sessions of the process run at the same time, each called from a thread of its own:
            then nothing that a session waits for or writes to may be another one's.
    """

    precision: Precision
    batch: int
    device: str
    threads: int | None = None
    options: dict[str, Any] = {}
    calibration: Callable[[], Iterable[Arrays]] | None = None
    concurrent: bool = False


class Effective(msgspec.Struct, frozen=True, kw_only=True):
    """What a session really does, as far as the runtime can be asked.

    Attributes:
        precision: The arithmetic that the heavy operators really use.
        device: The device that really runs them.
        threads: Compute threads on the CPU; None on an accelerator.
        streams: Parallel inference streams.
        details: More that a reader may want (execution mode, layout, kernels), plain values.
    """

    precision: Precision
    device: str
    threads: int | None
    streams: int
    details: dict[str, str | int | float | bool | None] = {}


class Session(ABC):
    """A loaded model, ready to run one batch after the other."""

    effective: Effective

    @abstractmethod
    def bind(self, inputs: Arrays) -> Callable[[], object]:
        """Put a batch of inputs where the device reads it and return the timed call.

        The call runs one iteration and returns when the outputs are complete on the device. Copies between host and
        device happen here, outside of the timed call. Binding again replaces the inputs of the call bound before.

        Args:
            inputs: Input name -> array ``(batch, …)`` of the model's dtype.

        Raises:
            ConfigError: An input is missing, unknown or of the wrong shape.
            MemoryError: The batch does not fit.
        """

    @abstractmethod
    def bound_outputs(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return what the latest timed call computed: output name -> float32 array on the host."""

    def refill(self, inputs: Arrays) -> Callable[[], object]:
        """Put another batch where the call bound last reads it, and return the call to make from now on.

        Unlike ``bind`` it does not have to run the model. A runtime that has no such way binds anew.

        Args:
            inputs: As for ``bind``.
        """
        return self.bind(inputs)

    def shared_inputs(self) -> dict[str, Any] | None:
        """Return the memory that the bound call reads, to be written in place; None where it cannot be reached.

        They are numpy arrays on the host, or torch tensors on their device, of the model's shapes and dtypes.
        """
        return None

    def shared_outputs(self) -> dict[str, Any] | None:
        """Return what the latest timed call computed where it lies, valid until the next one; None as above."""
        return None

    def outputs(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Run once and return output name -> float32 array on the host.

        Args:
            inputs: As for ``bind``, whose inputs they replace.
        """
        self.bind(inputs)()
        return self.bound_outputs()

    def device_memory_peak_bytes(self) -> int | None:
        """Return the peak of device memory allocated since loading; None where the runtime does not tell."""
        return None

    def device_name(self) -> str:
        """Return the accelerator's product name; empty for the CPU or where the runtime does not tell."""
        return ""

    def device_address(self) -> str:
        """Return the accelerator's PCI address; empty for the CPU or where the runtime does not tell."""
        return ""

    @abstractmethod
    def close(self) -> None:
        """Release the device."""


class Runtime(ABC):
    """A library that runs models.

    Attributes:
        name: The name in the registry.
        family: Runtimes of one family can share a process one after the other.
        config: The frozen type of the runtime's options; unknown keys are rejected.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    config: ClassVar[type[msgspec.Struct]]

    @classmethod
    @abstractmethod
    def probe(cls) -> Probe:
        """Tell whether the runtime works here; importing nothing that takes longer than needed."""

    @classmethod
    @abstractmethod
    def devices(cls) -> list[str]:
        """Return the devices that can be used now, the fastest kind first: ``cuda:0``, ``cpu``."""

    @classmethod
    @abstractmethod
    def precisions(cls, device: str) -> list[Precision]:
        """Return the precisions that the runtime can honour on a device."""

    @classmethod
    @abstractmethod
    def load(cls, model: Model, spec: LoadSpec) -> Session:
        """Load a model.

        Raises:
            ConfigError: An option is unknown, or the device is.
            UnavailableError: The precision cannot be honoured here, or something is not installed.
            ConversionError: The runtime cannot take this model.
            MemoryError: The model does not fit.
        """
