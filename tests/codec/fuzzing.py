"""What fuzzing of whole streams asks of them, shared by the test and by scripts/fuzz_streams.py."""

from __future__ import annotations

import functools
import io
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from tests.codec.golden_streams import load, names
from tests.codec.samples import every_type, weights

from wattwerk.codec import UpdateDecoder, UpdateEncoder, inspect, iter_unpack, pack, unpack
from wattwerk.codec.reduce_types import Decomposed, Scaled
from wattwerk.errors import BitstreamError

FEW = 100_000  # values, so that many streams can be tried
LONGEST_SECONDS = 1.0
FIRST_UPDATE = "update_both_1"
SECOND_UPDATES = ("update_both_2", "update_both_3", "update_hdsp_dq_2", "update_tca_dq_2", "update_tca_plain_2")


@functools.cache
def sound_streams(reader: str) -> list[bytes]:
    """Return the golden streams, and ours with every tool and element type; for second updates only these."""
    if reader == "second update":
        return [load(name).data for name in SECOND_UPDATES]
    if reader == "our second update":
        return [_our_updates()[1]]
    matrix = np.random.default_rng(2).normal(0, 0.1, (20, 8)).astype(np.float32)
    low = Decomposed(matrix, matrix.T.copy(), (20, 4, 5))
    base = weights()
    ours = [
        pack(every_type(), non_finite="raw", metadata={"a": "b"}, container="test"),
        pack({"low": low, "scaled": Scaled(matrix, matrix[:, 0])}, scan_order=1),
        pack(base, scan_order=1, qp=-20),
        pack(base, codebook="on", qp=-8, nonweight_qp=-8),
        pack(base, profile=0, dependent=False),
        _our_updates()[0],
    ]
    return ours + [load(name).data for name in names()]


@functools.cache
def _our_updates() -> tuple[bytes, bytes]:
    base, encoder = weights(), UpdateEncoder(weights(), qp=-20)
    later = {name: array + weights(1)[name] for name, array in base.items()}
    last = {name: array + weights(2)[name] for name, array in later.items()}
    return encoder.encode(later), encoder.encode(last)


def _stream(data: bytes, bound: int | None) -> Any:
    return list(iter_unpack(io.BytesIO(data), max_values=bound))


def _update(data: bytes, bound: int | None) -> Any:
    return UpdateDecoder(weights()).apply(data, max_values=bound)


def _second_update(data: bytes, bound: int | None) -> Any:
    decoder = UpdateDecoder()
    decoder.decode(load(FIRST_UPDATE).data)
    return decoder.decode(data, max_values=bound)


def _our_second_update(data: bytes, bound: int | None) -> Any:
    decoder = UpdateDecoder(weights())
    decoder.apply(_our_updates()[0])
    return decoder.apply(data, max_values=bound)


READERS: dict[str, Callable[[bytes, int | None], Any]] = {
    "unpack": lambda data, bound: unpack(data, max_values=bound, threads=1),
    "iter_unpack": _stream,
    "inspect": lambda data, bound: inspect(data, max_values=bound),
    "update": _update,
    "second update": _second_update,
    "our second update": _our_second_update,
}


def check(reader: str, data: bytes, bound: int | None = FEW) -> bool:
    """Read a stream, whatever it is; return whether it was taken for a sound one.

    Raises:
        AssertionError: Something else happened than arrays or an error with the offset, or it took too long.
    """
    before = time.process_time()
    refused: BitstreamError | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            READERS[reader](data, bound)
        except BitstreamError as error:
            refused = error
    seconds = time.process_time() - before
    assert seconds < LONGEST_SECONDS, f"{seconds:.1f} s"
    if refused is not None:
        assert refused.offset is not None, str(refused)
        assert 0 <= refused.offset <= len(data), str(refused)
        assert "no memory" not in str(refused), str(refused)
    return refused is None


def peak_memory(reader: str, data: bytes, bound: int | None = FEW) -> int:
    """Return the most bytes that reading a stream asks for at once."""
    tracemalloc.start()
    try:
        READERS[reader](data, bound)
    except BitstreamError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak
