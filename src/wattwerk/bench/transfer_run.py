"""Pack and unpack a model file under measurement, and write the balance of its transfer into a record."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import msgspec

from wattwerk.bench.transfer import TransferConfig, balance
from wattwerk.bench.transfer_codec import Work, cost
from wattwerk.codec.containers import ModelFile, open_model
from wattwerk.codec.model_files import Tell, nothing, read_arrays
from wattwerk.codec.model_packing import Packed, PackRequest, pack_model, write_stream
from wattwerk.codec.options import processors
from wattwerk.codec.unpacking import iter_unpack
from wattwerk.codec.update import apply_update
from wattwerk.machine import describe
from wattwerk.records import Record, Setup, Subject, new_id, now


def transfer(
    source: Path,
    request: PackRequest,
    config: TransferConfig,
    *,
    meter: bool = False,
    at_least_s: float = 1.0,
    tell: Tell = nothing,
) -> Record:
    """Return the balance of sending a model as it is, against packing it first; nothing is written.

    The model is in memory while the codec is timed: reading the file is the same for both ways.

    Args:
        source: The model file.
        request: How to pack.
        config: Links and devices.
        meter: Read this machine's sensors.
        at_least_s: Repeat encoding and decoding for so long each.
        tell: Told what goes on.

    Raises:
        ConfigError: Something asked for cannot be had, or the file cannot be used.
        UnavailableError: A package to read the file with is missing.
    """
    request.check()
    started_at = now()
    model = open_model(source)
    tell("reading", 0.0)
    arrays = dict(model.read())
    held = msgspec.structs.replace(model, read=lambda: iter(arrays.items()))
    streams: list[bytes] = []

    def encode() -> None:
        buffer = io.BytesIO()
        write_stream(held, request, buffer, tell)
        streams[:] = [buffer.getvalue()]

    decode = _decoder(lambda: io.BytesIO(streams[0]), request)
    works = cost(encode, decode, meter=meter, at_least_s=at_least_s, powers_w=(config.encode_w, config.decode_w))
    values = sum(array.size for array in arrays.values())
    return _record(model, len(streams[0]), values, request, config, works, started_at)


def metered_pack(
    source: Path, target: Path | None, request: PackRequest, config: TransferConfig, tell: Tell = nothing
) -> tuple[Packed, Record]:
    """Pack a file once under this machine's sensors, unpack the stream into nowhere, and return both with the balance.

    Args:
        source: The model file.
        target: As in `pack_model`.
        request: How to pack.
        config: Links and devices.
        tell: Told what goes on.

    Raises:
        ConfigError: As in `pack_model`.
        UnavailableError: As in `pack_model`.
    """
    started_at = now()
    model = open_model(source)  # before, so that what is imported for it is not counted
    done: list[Packed] = []

    def stream() -> io.BytesIO:
        return io.BytesIO(Path(done[0].output).read_bytes())

    decode = _decoder(stream, request)
    powers = config.encode_w, config.decode_w
    works = cost(lambda: done.append(pack_model(source, target, request, tell)), decode, meter=True, powers_w=powers)
    return done[0], _record(model, done[0].output_bytes, None, request, config, works, started_at)


def _decoder(opened: Callable[[], io.BytesIO], request: PackRequest) -> Callable[[], None]:
    """Return what decodes a stream once; the base of an update is read before."""
    known = None if request.base is None else read_arrays(Path(request.base))

    def decode() -> None:
        with opened() as file:
            if known is not None:
                apply_update(known, file.read())
                return
            for _ in iter_unpack(file, threads=request.threads or processors(), max_values=1 << 60):
                pass  # a tensor that nobody keeps

    return decode


def _record(
    model: ModelFile,
    packed_bytes: int,
    values: int | None,
    request: PackRequest,
    config: TransferConfig,
    works: tuple[Work, Work],
    started_at: str,
) -> Record:
    asked = {key: value for key, value in msgspec.structs.asdict(request).items() if value not in (None, [], {}, 0)}
    threads = request.threads or processors()
    return Record(
        id=new_id(),
        kind="transfer",
        group=new_id(),
        subject=Subject(name=model.path.name, parameters_count=values, weights=str(model.path)),
        platform=describe(),
        setup=Setup(
            runtime="nnc",
            device="cpu",
            threads=threads,
            options=asked,
            effective={"tensors": model.count, "container": model.kind},
            protocol=msgspec.structs.asdict(config),
        ),
        started_at=started_at,
        finished_at=now(),
        figures=balance(config, model.size_bytes, packed_bytes, *works),
    )
