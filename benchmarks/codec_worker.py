"""One codec in a process of its own, told what to do by lines of JSON: wattwerk's or the reference's, on equal terms.

    python benchmarks/codec_worker.py wattwerk|nncodec

codec_vs_nncodec.py measures through it, and the tests of interoperability decode through it. Only numpy and the codec
that is named have to be there. Each line is one call, `{"do": "encode", ...}`, and gets one line back.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, "np.ndarray[Any, Any]"]


class Wattwerk:
    """Our codec."""

    def __init__(self) -> None:
        from wattwerk import codec

        self.codec = codec
        self.encoders: dict[str, Any] = {}
        self.decoders: dict[str, Any] = {}

    def encode(self, arrays: Arrays, **options: Any) -> bytes:
        """Return the stream of a model."""
        return bytes(self.codec.pack(arrays, **options))

    def decode(self, stream: bytes, threads: int = 1) -> Arrays:
        """Return the arrays of a stream."""
        return dict(self.codec.unpack(stream, threads=threads))

    def encode_update(self, session: str, arrays: Arrays, **options: Any) -> bytes:
        """Return the stream of the next round of an update, which adds these arrays."""
        if session not in self.encoders:
            for name in ("temporal_contexts", "history_contexts"):
                options[name] = "on" if options[name] else "off"
            zeros = {name: np.zeros_like(array) for name, array in arrays.items()}
            self.encoders[session] = self.codec.UpdateEncoder(zeros, **options)
        encoder = self.encoders[session]
        return bytes(encoder.encode({name: encoder.state[name] + array for name, array in arrays.items()}))

    def decode_update(self, session: str, stream: bytes) -> Arrays:
        """Return the differences of the next round of an update."""
        if session not in self.decoders:
            self.decoders[session] = self.codec.UpdateDecoder()
        return dict(self.decoders[session].decode(stream))


class Nncodec:
    """The reference, through its public calls and with our names for the options."""

    def __init__(self) -> None:
        from nncodec import nnc, nnc_core
        from nncodec.nnc_core.hdsp.hdsp_tool import HdspTool

        self.nnc, self.tool = nnc, HdspTool
        self._recompose = nnc_core.approximator.recompose_params
        nnc_core.approximator.recompose_params = self._multiplied
        self.sessions: dict[str, tuple[Any, Any]] = {}

    def encode(self, arrays: Arrays, *, qp: int = -38, dependent: bool = True, **options: Any) -> bytes:
        """Return the stream of a model."""
        return bytes(self.nnc.compress(arrays, qp=qp, use_dq=dependent, **self._fixed(**options)))

    def decode(self, stream: bytes, threads: int = 1) -> Arrays:
        """Return the arrays of a stream; it knows one thread only."""
        del threads
        return {name: _narrow(value) for name, value in self.nnc.decompress(bytearray(stream)).items()}

    def encode_update(
        self, session: str, arrays: Arrays, *, qp: int = -38, dependent: bool = True, **options: Any
    ) -> bytes:
        """Return the stream of the next round of an update."""
        base, tool = self._session(f"encode {session}", options.pop("history_contexts", False))
        tca = options.pop("temporal_contexts", True)
        stream = self.nnc.compress(
            copy.deepcopy(arrays), qp=qp, use_dq=dependent, tca=tca, compress_differences=True, hdsp_tool=tool,
            approx_param_base=base, update_base_param=True, **self._fixed(**options),
        )  # fmt: skip
        return bytes(stream)

    def decode_update(self, session: str, stream: bytes) -> Arrays:
        """Return the differences of the next round of an update."""
        base, tool = self._session(f"decode {session}", True)
        values, _ = self.nnc.decompress(
            bytearray(stream), hdsp_tool=tool, return_hls=True, approx_param_base=base, update_base_param=True
        )
        return {name: _narrow(value) for name, value in values.items()}

    def _session(self, session: str, history: bool) -> tuple[Any, Any]:
        if session not in self.sessions:
            base = {"parameters": {}, "put_node_depth": {}, "device_id": 0, "parameter_id": {}}
            self.sessions[session] = base, self.tool(history)
        return self.sessions[session]

    def _multiplied(self, info: Any, data: Any) -> Any:
        """Multiply factors, at which the reference's last step ends with an error; leave everything else to it."""
        values = data["parameters"]
        weights = [name[:-2] for name in values if name.endswith("_G")]
        for weight in weights:
            product = values.pop(f"{weight}_G") @ values.pop(f"{weight}_H")
            values[weight] = product.reshape(info["parameter_dimensions"][weight])
        return data if weights else self._recompose(info, data)

    def _fixed(
        self, *, threads: int = 1, codebook: str = "off", unary_length: int = 11, **options: Any
    ) -> dict[str, Any]:
        del threads
        fixed = {"bitstream_path": None, "return_bitstream": True, "row_skipping": options.pop("row_skip", True)}
        fixed["codebook_mode"] = ("off", "on", "auto").index(codebook)
        return fixed | {"cabac_unary_length_minus1": unary_length - 1} | options


def _narrow(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return value if value.dtype == np.int32 else value.astype(np.float32, copy=False)


class Worker:
    """Answers calls: keeps a model, codes it, and says what that took."""

    def __init__(self, codec: Any) -> None:
        self.codec = codec
        self.arrays: Arrays = {}
        codec.decode(codec.encode({"warm": np.ones((8, 8), dtype=np.float32)}))  # what is imported on first use

    def load(self, arrays: str) -> dict[str, Any]:
        """Take the arrays of an npz as the model."""
        with np.load(arrays) as file:
            self.arrays = {name: file[name] for name in file.files}
        return {"size_bytes": sum(array.nbytes for array in self.arrays.values())}

    def encode(self, out: str, options: dict[str, Any]) -> dict[str, Any]:
        """Encode the model into a file."""
        stream, costs = self._measured(lambda: self.codec.encode(self.arrays, **options))
        Path(out).write_bytes(stream)
        return costs | {"size_bytes": len(stream)}

    def decode(self, stream: str, threads: int = 1, keep: str = "") -> dict[str, Any]:
        """Decode a file; say what came out by its digests and its distance to the model."""
        data = Path(stream).read_bytes()
        arrays, costs = self._measured(lambda: self.codec.decode(data, threads=threads))
        return costs | self._told(arrays, keep)

    def encode_update(self, session: str, arrays: str, out: str, options: dict[str, Any]) -> dict[str, Any]:
        """Encode the next round of an update."""
        with np.load(arrays) as file:
            changes = {name: file[name] for name in file.files}
        stream = self.codec.encode_update(session, changes, **options)
        Path(out).write_bytes(stream)
        return {"size_bytes": len(stream)}

    def decode_update(self, session: str, stream: str, keep: str = "") -> dict[str, Any]:
        """Decode the next round of an update."""
        return self._told(self.codec.decode_update(session, Path(stream).read_bytes()), keep)

    def memory(self) -> dict[str, Any]:
        """Say how much memory the process has had at most."""
        return {"rss_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}

    def _told(self, arrays: Arrays, keep: str) -> dict[str, Any]:
        if keep:
            np.savez(keep, **arrays)
        digests = {
            name: [str(array.dtype), list(array.shape), hashlib.sha256(np.ascontiguousarray(array)).hexdigest()]
            for name, array in arrays.items()
        }
        return {"digests": digests, "relative_error": self._relative_error(arrays)}

    def _relative_error(self, arrays: Arrays) -> float:
        """Return the error's length over the weights', of the tensors with two dimensions or more."""
        error = norm = 0.0
        for name, original in self.arrays.items():
            if original.ndim > 1 and original.dtype == np.float32 and name in arrays:
                difference = arrays[name].ravel() - original.ravel()
                error += float(np.dot(difference, difference))
                norm += float(np.dot(original.ravel(), original.ravel()))
        return float(np.sqrt(error / norm)) if norm else 0.0

    def _measured(self, work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
        cpu_ns, wall_ns = time.process_time_ns(), time.perf_counter_ns()  # user and system time of all threads
        result = work()
        wall_ns, cpu_ns = time.perf_counter_ns() - wall_ns, time.process_time_ns() - cpu_ns
        return result, {"cpu_s": cpu_ns / 1e9, "wall_s": wall_ns / 1e9}


def main() -> int:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the reference prints as it pleases
    worker = Worker({"wattwerk": Wattwerk, "nncodec": Nncodec}[sys.argv[1]]())
    for line in sys.stdin:
        call = json.loads(line)
        try:
            answer = getattr(worker, call.pop("do"))(**call)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
