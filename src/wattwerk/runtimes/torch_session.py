"""A loaded PyTorch model: called eagerly, compiled, or replayed from a CUDA graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.runtimes.base import Arrays, Effective, LoadSpec, Model, Precision, Session
from wattwerk.runtimes.cuda_address import cuda_address
from wattwerk.runtimes.request import check_inputs, failures
from wattwerk.runtimes.torch_int8 import confirm_lowered, heavy_count, lowered_count, quantise
from wattwerk.runtimes.torch_settings import GlobalSettings

#: distinct sessions of one module that the compiler may specialise for before it silently goes on eagerly
_MOST_CONCURRENT: Final = 256

#: runs on a side stream before a capture, as PyTorch's notes on CUDA graphs ask for
_RUNS_BEFORE_CAPTURE: Final = 3


class Plan(msgspec.Struct, frozen=True):
    """How a model is to be run.

    Attributes:
        channels_last: Whether images and filters lie in memory with the channels last.
        cudnn_benchmark: Whether cuDNN tries its algorithms first.
        cuda_graph: Whether the run is captured in a CUDA graph.
        compile_mode: The mode of ``torch.compile``; empty for eager.
        freezing: Whether the compiler takes the weights as constants.
    """

    channels_last: bool
    cudnn_benchmark: bool
    cuda_graph: bool = False
    compile_mode: str = ""
    freezing: bool = False


class TorchSession(Session):
    """A model on its device, with PyTorch's global switches held until it is closed.

    Args:
        model: What to run.
        spec: How: precision, batch, device, threads.
        plan: How else.
    """

    def __init__(self, model: Model, spec: LoadSpec, plan: Plan) -> None:
        self._model, self._spec, self._plan = model, spec, plan
        self._cuda = spec.device != "cpu"
        # read before the switches are set: building a model may look at them
        module = copy.deepcopy(model.torch_module())
        self._settings = GlobalSettings(spec.device, spec.precision, spec.threads, plan.cudnn_benchmark)
        # device-wide waiting, and the stream that all threads share, would put sessions in one queue
        self._stream = _own_stream(spec.device) if self._cuda and spec.concurrent else None
        self._function: Any = None
        self._graph: Any = None
        self._static: list[Any] = []
        self._bound: list[Any] = []  # what the bound call reads
        self._kept: list[Any] = [None]
        try:
            self._load(module)
        except BaseException:
            self.close()
            raise

    def _load(self, module: Any) -> None:
        import torch

        if self._cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        blank = [np.zeros((self._spec.batch, *each.shape), np.dtype(each.dtype)) for each in self._model.inputs]
        ready = self._prepared(module)
        self._function = self._compiled(ready) if self._plan.compile_mode else ready
        lowered = lowered_count() if self._spec.precision is Precision.INT8 else 0
        tensors = self._placed(blank)
        self._first_run(tensors)
        details = self._details(module)
        if self._spec.precision is Precision.INT8:
            share = confirm_lowered(lowered_count() - lowered, heavy_count(ready), self._model.name)
            details["heavy_operators_at_precision_ratio"] = round(share, 4)
        if self._plan.cuda_graph:
            self._capture(tensors)
        self.effective = Effective(
            precision=self._spec.precision,
            device=self._spec.device,
            threads=None if self._cuda else torch.get_num_threads(),
            streams=1,
            details=details,
        )

    def _prepared(self, module: Any) -> Any:
        import torch

        module = module.eval().requires_grad_(False)
        if self._spec.precision is Precision.INT8:
            return quantise(module, self._model, self._spec)
        layout = torch.channels_last if self._plan.channels_last else torch.preserve_format
        return module.to(device=self._spec.device, dtype=self._dtype(), memory_format=layout)

    def _compiled(self, module: Any) -> Any:
        import torch

        # what earlier sessions left behind counts towards a limit, past which functions silently stay eager
        if not self._spec.concurrent:  # else it is what other sessions run on
            torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        mode = None if self._plan.compile_mode == "default" else self._plan.compile_mode
        return torch.compile(module, dynamic=False, mode=mode)

    def _first_run(self, tensors: list[Any]) -> None:
        if not self._plan.compile_mode:
            return self._direct_call(tensors)()
        from torch._dynamo import config as dynamo
        from torch._inductor import config as inductor

        with ExitStack() as patches:
            if self._spec.concurrent:
                patches.enter_context(dynamo.patch(recompile_limit=_MOST_CONCURRENT))
            if self._plan.freezing:
                # as an option of torch.compile, freezing reaches only a part of the passes that int8 needs
                patches.enter_context(inductor.patch(freezing=True))
            return self._direct_call(tensors)()

    def _dtype(self) -> Any:
        import torch

        return {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}.get(self._spec.precision, torch.float32)

    def _placed(self, arrays: list[npt.NDArray[Any]]) -> list[Any]:
        tensors = [self._placed_one(array) for array in arrays]
        self._settle()
        return tensors

    def _settle(self) -> None:
        """Wait for the copies, which went into another queue than the session's own."""
        if self._stream is not None:
            import torch

            torch.cuda.synchronize()

    def _placed_one(self, array: npt.NDArray[Any]) -> Any:
        import torch

        tensor = torch.tensor(array, device=self._spec.device)
        if tensor.is_floating_point():
            tensor = tensor.to(self._dtype())
        images = self._plan.channels_last and tensor.dim() == 4
        return tensor.contiguous(memory_format=torch.channels_last) if images else tensor

    def _capture(self, tensors: list[Any]) -> None:
        import torch

        self._kept[0] = None
        # cuBLAS has a workspace for each stream: graphs captured on one stream must not be replayed side by side
        side = self._stream or torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.inference_mode():
            for _ in range(_RUNS_BEFORE_CAPTURE):
                self._function(*tensors)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph, stream=self._stream):
            self._kept[0] = self._function(*tensors)
        torch.cuda.synchronize()
        self._graph, self._static = graph, tensors

    def _details(self, module: Any) -> dict[str, str | int | float | bool | None]:
        import torch

        compiled = bool(self._plan.compile_mode)
        details: dict[str, str | int | float | bool | None] = {
            "version": str(torch.__version__),  # a TorchVersion is no plain text
            "channels_last": self._plan.channels_last,
            "execution": "compiled" if compiled else "eager",
            "cuda_graph": self._plan.cuda_graph,
            "attention": _attention(module),
            "precision_evidence": "dtype and global switches",
        }
        if compiled:
            details |= {
                "compile_mode": self._plan.compile_mode,
                "freezing": self._plan.freezing,
                "graph_breaks_count": _graph_breaks_count(),
            }
        if self._cuda:
            details |= {
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
                "cudnn_benchmark": self._plan.cudnn_benchmark,
                "own_stream": self._stream is not None,
                "matmul_precision": torch.get_float32_matmul_precision(),
                "cudnn_tf32": bool(torch.backends.cudnn.allow_tf32),
                # left alone, PyTorch mixes: matrix products in fp32, convolutions in TF32
                "cudnn_tf32_before": self._settings.cudnn_tf32_before,
            }
        return details

    def bind(self, inputs: Arrays) -> Callable[[], object]:
        """Put the inputs on the device and return the timed call.

        Raises:
            ConfigError: An input is missing, unknown or of the wrong shape.
            MemoryError: The batch does not fit.
        """
        arrays = check_inputs(self._model.inputs, self._spec.batch, inputs)
        with failures(self._model, self._spec, "PyTorch"):
            tensors = self._placed(arrays)
            if self._graph is None:
                call, self._bound = self._direct_call(tensors), tensors
            else:
                self._bound = self._static
                for static, tensor in zip(self._static, tensors, strict=True):
                    static.copy_(tensor)
                self._settle()
                call = self._replay_call()
            call()
        return call

    def refill(self, inputs: Arrays) -> Callable[[], object]:
        """Copy another batch into the tensors that the bound call reads.

        Raises:
            ConfigError: An input is missing, unknown or of the wrong shape.
        """
        import torch

        arrays = check_inputs(self._model.inputs, self._spec.batch, inputs)
        for tensor, array in zip(self._bound, arrays, strict=True):
            tensor.copy_(torch.from_numpy(array))
        self._settle()
        return self._direct_call(self._bound) if self._graph is None else self._replay_call()

    def shared_inputs(self) -> dict[str, Any] | None:
        """Return the tensors that the bound call reads: on a GPU as they are, on the CPU as arrays if they are fp32."""
        import torch

        named = {spec.name: tensor for spec, tensor in zip(self._model.inputs, self._bound, strict=True)}
        if self._cuda:
            return named
        plain = all(tensor.dtype is torch.float32 and tensor.is_contiguous() for tensor in named.values())
        return {name: tensor.numpy() for name, tensor in named.items()} if plain else None

    def shared_outputs(self) -> dict[str, Any] | None:
        """Return the tensors that the latest timed call computed; on the CPU as arrays if they are fp32."""
        import torch

        outputs = self._kept[0]
        tensors = outputs if isinstance(outputs, tuple | list) else (outputs,)
        named = dict(zip(self._model.output_names(), tensors, strict=True))
        if self._cuda:
            return named
        plain = all(tensor.dtype is torch.float32 for tensor in tensors)
        return {name: tensor.numpy() for name, tensor in named.items()} if plain else None

    def _direct_call(self, tensors: list[Any]) -> Callable[[], None]:
        import torch

        function, kept, inference = self._function, self._kept, torch.inference_mode

        def run() -> None:
            with inference():
                kept[0] = function(*tensors)

        return self._awaited(run) if self._cuda else run

    def _replay_call(self) -> Callable[[], None]:
        return self._awaited(self._graph.replay)

    def _awaited(self, run: Callable[[], None]) -> Callable[[], None]:
        """Return a call that runs something on the GPU and waits for it: for the session's own stream if it has one."""
        import torch

        stream, synchronize, on = self._stream, torch.cuda.synchronize, torch.cuda.stream
        if stream is None:

            def alone() -> None:
                run()
                synchronize()

            return alone

        def beside_others() -> None:
            with on(stream):
                run()
            stream.synchronize()

        return beside_others

    def bound_outputs(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return what the latest timed call computed."""
        outputs = self._kept[0]
        tensors = outputs if isinstance(outputs, tuple | list) else (outputs,)
        return {
            name: np.array(tensor.detach().float().cpu().numpy())
            for name, tensor in zip(self._model.output_names(), tensors, strict=True)
        }

    def device_memory_peak_bytes(self) -> int | None:
        """Return the peak of the device memory that PyTorch's allocator has handed out since loading."""
        import torch

        return int(torch.cuda.max_memory_allocated(self._spec.device)) if self._cuda else None

    def device_name(self) -> str:
        """Return the GPU's product name."""
        import torch

        return str(torch.cuda.get_device_name(self._spec.device)) if self._cuda else ""

    def device_address(self) -> str:
        """Return the GPU's PCI address."""
        return cuda_address(self._spec.device) if self._cuda else ""

    def close(self) -> None:
        """Release the device and put PyTorch's switches back; nothing happens the second time."""
        import torch

        self._graph, self._function, self._static, self._bound, self._kept = None, None, [], [], [None]
        if self._plan.compile_mode:
            torch.compiler.reset()
        if self._cuda:
            torch.cuda.empty_cache()
        self._settings.restore()


def _own_stream(device: str) -> Any:
    import torch

    return torch.cuda.Stream(device)


def _graph_breaks_count() -> int:
    """Return where the compiler gave up and went on eagerly; its counters start again with every session."""
    from torch._dynamo.utils import counters

    return sum(counters["graph_break"].values())


def _attention(module: Any) -> str | None:
    """Return the attention implementation of a transformers model, None where there is none to tell."""
    for part in module.modules():
        chosen = getattr(getattr(part, "config", None), "_attn_implementation", None)
        if chosen:
            return str(chosen)
    return None
