"""Models by reference: a built-in name, a path to an ONNX file, or ``package.module:factory``."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.catalog import checkpoints, count, images, onnx_file, seeding
from wattwerk.catalog.architectures import ARCHITECTURES, weights_of
from wattwerk.errors import ConfigError, ConversionError, UnavailableError, WattwerkError
from wattwerk.records import Subject, TensorSpec
from wattwerk.registry import suggestion

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]

_FACTORY_SHAPE: Final = (3, 224, 224)
_LARGEST_BYTES: Final = 2_000_000_000  # a protobuf message cannot be larger than 2 GiB


class Reference(msgspec.Struct, frozen=True):
    """What a model is resolved from; it is all that another process needs to build the model again.

    Attributes:
        name: A built-in name, a path to an .onnx file, or ``package.module:factory``.
        weights: A path to real weights, or a hub id; None for seeded ones.
        input_shape: The first input's shape without the batch, where the model does not fix it.
        seed: The seed of the weights.
    """

    name: str
    weights: str | None = None
    input_shape: tuple[int, ...] | None = None
    seed: int = 0


class CatalogModel(ABC):
    """A model that can be run: what it takes, what it costs, and its forms.

    Attributes:
        reference: What it was resolved from.
        name: Its name in records.
        task: ``classification``, ``detection``, ``segmentation`` or empty.
        inputs: Its inputs, without the batch dimension.
        fixed_batch: The batch size that an ONNX file is fixed to; None where the batch is free.
    """

    task: str = ""
    fixed_batch: int | None = None
    inputs: tuple[TensorSpec, ...]

    def __init__(self, reference: Reference, name: str) -> None:
        self.reference = reference
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return _build, (self.reference,)

    @abstractmethod
    def onnx_bytes(self) -> bytes:
        """Return the model as serialised ONNX: fp32, with weights, its batch dynamic unless ``fixed_batch``.

        Raises:
            ConversionError: It cannot be exported, or is too large for one message.
            UnavailableError: A package for the export is missing.
        """

    @abstractmethod
    def torch_module(self) -> Any:
        """Return the model as a ``torch.nn.Module`` in eval mode, fp32, on the CPU.

        Raises:
            UnavailableError: It has no torch form, or a package is missing.
        """

    @abstractmethod
    def output_names(self) -> tuple[str, ...]:
        """Return the names of the outputs, in order."""

    @abstractmethod
    def counts(self) -> count.Counts | None:
        """Return parameters and operations; None where they cannot be counted."""

    @property
    def origin(self) -> str:
        """Where the weights come from."""
        return f"seeded:{self.reference.seed}"

    @property
    def digest(self) -> str:
        """The SHA-256 of the model file; empty for built-in models and factories."""
        return ""

    def subject(self) -> Subject:
        """Return what a record says of the model."""
        counts = self.counts()
        batch = self.fixed_batch or "batch"
        return Subject(
            name=self.name,
            task=self.task,
            parameters_count=counts.parameters_count if counts else None,
            sample_flops=counts.sample_flops if counts else None,
            weights=self.origin,
            inputs={spec.name: [batch, *spec.shape] for spec in self.inputs},
            digest=self.digest,
        )

    def sample_inputs(self, batch: int, seed: int) -> dict[str, Array]:
        """Draw inputs: image-like ones where the shape is an image's, else plain numbers.

        Args:
            batch: How many samples.
            seed: The seed.

        Returns:
            Input name -> array ``(batch, …)`` of the input's dtype.
        """
        return {spec.name: _sample(spec, batch, seed) for spec in self.inputs}


def _sample(spec: TensorSpec, batch: int, seed: int) -> Array:
    if len(spec.shape) == 3 and spec.shape[0] in (1, 3, 4) and np.issubdtype(np.dtype(spec.dtype), np.floating):
        channels, height, width = spec.shape
        return images.sample_images((channels, height, width), batch, seed).astype(spec.dtype, copy=False)
    return images.sample_numbers(spec.name, spec.shape, spec.dtype, batch, seed)


class BuiltInModel(CatalogModel):
    """A model whose graph ships with wattwerk."""

    def __init__(self, reference: Reference) -> None:
        super().__init__(reference, reference.name)
        self._architecture = ARCHITECTURES[reference.name]
        self._graph = seeding.graph_of(reference.name)
        self._card = seeding.card_of(self._graph)
        self.task = self._architecture.task
        self.inputs = onnx_file.inputs_of(self._graph, reference.input_shape, reference.name)
        self._checkpoint = checkpoints.open_checkpoint(reference.weights) if reference.weights else None
        if self._checkpoint:
            self._checkpoint.check(self._shapes())

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        tensors = seeding.empty_tensors(self._graph, self._card.recipe)
        return {name: tuple(tensor.dims) for name, tensor in tensors.items()}

    def _arrays(self) -> dict[str, Array]:
        if self._checkpoint is None:
            return seeding.seeded_arrays(self._graph, self.reference.seed)
        return {name: self._checkpoint.array(name) for name in self._shapes()}

    @functools.cached_property
    def _onnx(self) -> bytes:
        return seeding.filled(seeding.graph_of(self.name), self._arrays())

    def onnx_bytes(self) -> bytes:
        """Return the shipped graph with its tensors filled."""
        return self._onnx

    def torch_module(self) -> Any:
        """Return the torch form with the same arrays."""
        module = self._architecture.build()
        _load_arrays(weights_of(module), self._arrays(), self.name)
        return module

    def output_names(self) -> tuple[str, ...]:
        """Return the names of the graph's outputs."""
        return self._architecture.outputs

    def counts(self) -> count.Counts:
        """Return what was counted when the graph was built."""
        return count.Counts(self._card.parameters_count, self._card.sample_flops)

    @property
    def origin(self) -> str:
        """Where the weights come from."""
        return self._checkpoint.origin if self._checkpoint else super().origin


def _load_arrays(module: Any, arrays: dict[str, Array], name: str) -> None:
    """Load arrays by name into a torch module; every tensor of either side has to have its partner."""
    import torch

    tensors = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
    result = module.load_state_dict(tensors, strict=False)
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    odd = [*missing, *result.unexpected_keys]
    if odd:
        raise UnavailableError(
            f"the installed transformers builds {name} with other tensors ({', '.join(odd[:3])})",
            "install transformers 5, or run another runtime",
        )


class OnnxModel(CatalogModel):
    """A model from the user's ONNX file."""

    def __init__(self, reference: Reference) -> None:
        self._path = Path(reference.name).expanduser().resolve()
        super().__init__(reference, self._path.stem)
        if reference.weights:
            raise ConfigError("--weights does not go with an ONNX file", "leave it away: the file has its own weights")
        model = onnx_file.read_onnx(self._path, data=False)
        self.inputs = onnx_file.inputs_of(model, reference.input_shape, reference.name)
        self.fixed_batch = onnx_file.fixed_batch_of(model)
        self._outputs = tuple(value.name for value in model.graph.output)

    def __reduce__(self) -> tuple[Any, ...]:
        return _build, (msgspec.structs.replace(self.reference, name=str(self._path)),)

    @functools.cached_property
    def _onnx(self) -> bytes:
        model = onnx_file.read_onnx(self._path)
        onnx_file.pin_shapes(model, self.inputs)
        if model.ByteSize() > _LARGEST_BYTES:
            raise ConversionError(
                f"{self.name} is larger than 2 GB, more than one ONNX message holds",
                "store its weights as fp16 or int8",
            )
        return bytes(model.SerializeToString())

    def onnx_bytes(self) -> bytes:
        """Return the file's graph with all tensors inside and the known shapes written in."""
        return self._onnx

    @property
    def path(self) -> Path:
        """The file, for runtimes that would rather read it themselves."""
        return self._path

    def torch_module(self) -> Any:
        """Refuse: there is no torch form.

        Raises:
            UnavailableError: Always.
        """
        raise onnx_file.without_torch_form(self.reference.name)

    def output_names(self) -> tuple[str, ...]:
        """Return the names of the graph's outputs."""
        return self._outputs

    @functools.cached_property
    def _counts(self) -> count.Counts:
        return _counted(onnx_file.read_onnx(self._path, data=False), self)

    def counts(self) -> count.Counts:
        """Count the file's graph."""
        return self._counts

    @property
    def origin(self) -> str:
        """Where the weights come from."""
        return self._path.name

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of the file."""
        return onnx_file.digest_of(self._path)


def _counted(graph: onnx.ModelProto, model: CatalogModel) -> count.Counts:
    batch = model.fixed_batch or 1
    counts = count.counts_of(graph, {spec.name: (batch, *spec.shape) for spec in model.inputs})
    flops = counts.sample_flops / batch if counts.sample_flops is not None else None
    return count.Counts(counts.parameters_count, flops)


class FactoryModel(CatalogModel):
    """A model that the user's own function builds as a torch module."""

    def __init__(self, reference: Reference) -> None:
        super().__init__(reference, reference.name)
        shape = reference.input_shape or _FACTORY_SHAPE
        if min(shape) < 1:
            raise ConfigError(f"--input-shape {shape} has an empty dimension", "give positive numbers")
        self.inputs = (TensorSpec("input", shape),)
        self._module = _from_factory(reference.name, reference.seed)
        if reference.weights:
            self._load(reference.weights)

    def _load(self, weights: str) -> None:
        checkpoint = checkpoints.open_checkpoint(weights)
        state = self._module.state_dict()
        wanted = {key: tuple(t.shape) for key, t in state.items() if not key.endswith("num_batches_tracked")}
        checkpoint.check(wanted)
        _load_arrays(self._module, {key: checkpoint.array(key) for key in wanted}, self.name)

    @functools.cached_property
    def _onnx(self) -> bytes:
        return _exported(self._module, self.inputs[0], self.name)

    @functools.cached_property
    def _graph(self) -> onnx.ModelProto:
        import onnx

        return onnx.load_from_string(self._onnx)

    def onnx_bytes(self) -> bytes:
        """Export the module with a dynamic batch."""
        return self._onnx

    def torch_module(self) -> Any:
        """Return a copy of the factory's module."""
        import copy

        return copy.deepcopy(self._module)

    def output_names(self) -> tuple[str, ...]:
        """Return the names of the exported graph's outputs."""
        return tuple(value.name for value in self._graph.graph.output)

    def counts(self) -> count.Counts | None:
        """Count the exported graph; the parameters alone where the module cannot be exported."""
        parameters = sum(parameter.numel() for parameter in self._module.parameters())
        try:
            return count.Counts(parameters, _counted(self._graph, self).sample_flops)
        except WattwerkError:
            return count.Counts(parameters, None)

    @property
    def origin(self) -> str:
        """Where the weights come from."""
        return self.reference.weights or f"factory, seeded:{self.reference.seed}"


def _from_factory(reference: str, seed: int) -> Any:
    """Call ``package.module:factory`` under a seed and return its module in eval mode, on the CPU, in fp32."""
    try:
        import torch
    except ImportError as error:
        raise UnavailableError(f"{reference} needs torch", "pip install 'wattwerk[torch]'") from error
    factory = _imported(reference)
    try:
        # a print of the user's may not get into what --json writes
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(sys.stderr):
            torch.manual_seed(seed)
            module = factory()
    except (Exception, SystemExit) as error:  # whatever the user's function raises is the user's to correct
        raise ConfigError(f"{reference} raised {type(error).__name__}: {error}", "correct the factory") from error
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(
            f"{reference} returned a {type(module).__name__}", "return a torch.nn.Module from a call without arguments"
        )
    return module.eval().float().cpu()


def _imported(reference: str) -> Any:
    module_name, _, attribute = reference.partition(":")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            module = importlib.import_module(module_name)
        factory = functools.reduce(getattr, attribute.split("."), module)
    except ImportError as error:
        raise ConfigError(f"cannot import {module_name} ({error})", "check the name and PYTHONPATH") from error
    except AttributeError as error:
        raise ConfigError(f"{module_name} has no {attribute}", "check the name after the colon") from error
    except (Exception, SystemExit) as error:  # the user's module runs on import
        raise ConfigError(f"importing {module_name} raised {type(error).__name__}: {error}", "correct it") from error
    if not callable(factory):
        raise ConfigError(f"{reference} cannot be called", "name a function or class that returns a torch.nn.Module")
    return factory


def _exported(module: Any, spec: TensorSpec, name: str) -> bytes:
    import contextlib
    import warnings

    import torch

    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (torch.zeros(2, *spec.shape),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                input_names=[spec.name],
                verbose=False,
            )
        return bytes(program.model_proto.SerializeToString())
    except ImportError as error:
        raise UnavailableError(f"exporting {name} needs a package ({error})", "pip install onnxscript") from error
    except Exception as error:  # the exporter raises errors of many kinds
        reason = " ".join(str(error).split())[:200]
        raise ConversionError(
            f"{name} cannot be exported to ONNX ({reason})", "run it with --runtime torch, or export it yourself"
        ) from error


def names() -> list[str]:
    """Return the names of the built-in models."""
    return list(ARCHITECTURES)


def bare_subject(reference: str) -> Subject:
    """Return what a record can say of a model that could not be loaded: its name, and the digest of its file."""
    if not reference.endswith(".onnx"):
        return Subject(reference)
    path = Path(reference).expanduser()
    try:
        digest = onnx_file.digest_of(path)
    except OSError:  # it went away meanwhile
        digest = ""
    return Subject(path.stem, digest=digest)


def resolve(
    reference: str, *, weights: str | None = None, input_shape: tuple[int, ...] | None = None, seed: int = 0
) -> CatalogModel:
    """Find a model and check that it can be used; its weights are filled in when they are first asked for.

    Args:
        reference: A built-in name, a path to an .onnx file, or ``package.module:factory``.
        weights: Real weights: an .onnx or .safetensors file, or a hub id ``organisation/name``.
        input_shape: The first input's shape without the batch, where the model does not fix it.
        seed: The seed of the weights.

    Raises:
        ConfigError: The reference, the weights or the shape cannot be used.
        UnavailableError: A package or the hub is missing.
    """
    return _build(Reference(reference, weights, input_shape, seed))


def _build(reference: Reference) -> CatalogModel:
    name = reference.name
    if name in ARCHITECTURES:
        return BuiltInModel(reference)
    if name.endswith(".onnx"):
        return OnnxModel(reference)
    if Path(name).is_file():
        raise ConfigError(
            f"{name} is no ONNX file", "export the model to .onnx, or name a factory package.module:function"
        )
    module, colon, attribute = name.partition(":")
    if colon and module and attribute:
        return FactoryModel(reference)
    raise ConfigError(f"unknown model {name!r}", suggestion(name, names()))
