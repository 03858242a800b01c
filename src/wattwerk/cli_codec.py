"""The commands around packed models: pack, unpack, inspect, transfer. Parse, call, print; nothing heavy at import."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from wattwerk.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="Print JSON on the standard output, and nothing else there.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="The file; beside the input if left out.")]
Threads = Annotated[int | None, typer.Option("--threads", "-t", help="Threads; 0 for one on each processor.")]
MaxValues = Annotated[
    int | None, typer.Option(help="Most values that all tensors may have together; it follows from the size.")
]
Input = Annotated[
    Path, typer.Argument(help=".safetensors (or the folder of its shards), .pt, .pth, .bin, .onnx or .npz.")
]
Qp = Annotated[int | None, typer.Option("--qp", help="Quantisation parameter of weights; 4 less halve the step (-38).")]
Quality = Annotated[str | None, typer.Option("--quality", "-q", help="near-lossless, balanced or small.")]
TargetSize = Annotated[str | None, typer.Option(help="Size to come near to from below, such as 6.5MB.")]
MaxSize = Annotated[str | None, typer.Option(help="Size that is not exceeded, at the cost of quality.")]
Reduce = Annotated[
    list[str] | None,
    typer.Option("--reduce", "-r", help="PASS[:OPTION=VALUE,…] before coding; repeatable, in this order."),
]
Option = Annotated[list[str] | None, typer.Option("--option", help="KEY=VALUE of the coder; repeatable.")]
Preset = Annotated[str, typer.Option(help="Links and devices: eeki, eeki-energies or world; docs/pack.md.")]
Rate = Annotated[float | None, typer.Option(help="Rate of the link in Mbit/s.")]
Config = Annotated[Path | None, typer.Option(help="A TOML file with all of this; options go before.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog=_PACK_EXAMPLES)(pack)
    app.command(epilog=_UNPACK_EXAMPLES)(unpack)
    app.command()(inspect)
    app.command(epilog=_TRANSFER_EXAMPLES)(transfer)


_PACK_EXAMPLES = """
Examples:

  [bold]wattwerk pack model.safetensors[/bold]

  wattwerk pack model.pt -o small.nnc --quality balanced

  wattwerk pack model.onnx --target-size 6.5MB --reduce sparsify:sparsity=0.3

  wattwerk pack round7.pt --base round6.pt
"""
_UNPACK_EXAMPLES = """
Examples:

  wattwerk unpack model.nnc

  wattwerk unpack round7.nnc --base round6.pt -o round7.pt
"""
_TRANSFER_EXAMPLES = """
Examples:

  wattwerk transfer model.safetensors

  wattwerk transfer model.pt --quality balanced --up 5 --down 50 --sender-w 3
"""


def pack(
    model: Input,
    output: Output = None,
    qp: Qp = None,
    quality: Quality = None,
    target_size: TargetSize = None,
    max_size: MaxSize = None,
    max_accuracy_loss: Annotated[float | None, typer.Option(help="How much less --evaluate may return.")] = None,
    evaluate: Annotated[
        str | None, typer.Option(help="package.module:function: takes arrays by name, returns a score.")
    ] = None,
    reduce: Reduce = None,
    base: Annotated[Path | None, typer.Option(help="Pack what changes in this model, which the receiver has.")] = None,
    threads: Threads = None,
    option: Option = None,
    config: Config = None,
    meter: Annotated[
        bool, typer.Option("--meter", help="Measure it, and tell what one transfer saves (wattwerk transfer).")
    ] = False,
    json: Json = False,
) -> None:
    """Pack a model file into an NNC stream (ISO/IEC 15938-17)."""
    from wattwerk import terminal, terminal_codec
    from wattwerk.codec.model_packing import pack_model

    asked = {
        "qp": qp,
        "quality": quality,
        "target_size": target_size,
        "max_size": max_size,
        "max_accuracy_loss": max_accuracy_loss,
        "evaluate": evaluate,
        "base": None if base is None else str(base),
        "threads": threads,
    }
    request = _request(asked, reduce, option, config)
    if meter:
        _metered(model, output, request, json)
        return
    with terminal_codec.WorkProgress(shown=not json) as progress:
        done = pack_model(model, output, request, progress)
    terminal.print_json(done) if json else terminal_codec.print_packed(done)


def _metered(model: Path, output: Path | None, request: Any, json: bool) -> None:
    from wattwerk import terminal, terminal_codec
    from wattwerk.bench.transfer import preset
    from wattwerk.bench.transfer_run import metered_pack
    from wattwerk.store import Store

    with Store() as store:
        with terminal_codec.WorkProgress(shown=not json) as progress:
            done, record = metered_pack(model, output, request, preset(), progress)
        store.add(record)
    if json:
        terminal.print_json({"packed": done, "record": record})
        return
    terminal_codec.print_packed(done)
    terminal.out.print()
    terminal_codec.print_transfer(record)


def unpack(
    stream: Annotated[Path, typer.Argument(help="The stream.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=".safetensors, .pt, .onnx or .npz; as what was packed if left out."),
    ] = None,
    base: Annotated[Path | None, typer.Option(help="The model that an update changes.")] = None,
    threads: Threads = None,
    max_values: MaxValues = None,
    json: Json = False,
) -> None:
    """Unpack an NNC stream into a model file."""
    from wattwerk import terminal, terminal_codec
    from wattwerk.codec.model_unpacking import unpack_model

    with terminal_codec.WorkProgress(shown=not json) as progress:
        done = unpack_model(stream, output, base=base, threads=threads or 0, max_values=max_values, tell=progress)
    terminal.print_json(done) if json else terminal_codec.print_unpacked(done)


def inspect(
    stream: Annotated[Path, typer.Argument(help="The stream.")],
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Decode every payload, or only read what leads it in.")
    ] = True,
    units: Annotated[bool, typer.Option("--units", help="Show all units of the stream.")] = False,
    max_values: MaxValues = None,
    json: Json = False,
) -> None:
    """Show what an NNC stream is made of: tensors, QP, tools, bits, share of the size; and check the whole of it."""
    from wattwerk import terminal, terminal_codec
    from wattwerk.codec import inspection
    from wattwerk.codec.model_files import about, read_head

    read_head(stream)
    with terminal_codec.WorkProgress(shown=not json) as progress, about(stream):
        progress("checking" if check else "reading", 0.0)
        found = inspection.inspect(stream, check=check, max_values=max_values)
    if json:
        terminal.print_json(terminal_codec.inspection_dict(str(stream), found, units))
    else:
        terminal_codec.print_inspection(str(stream), found, units)


def transfer(
    model: Input,
    preset: Preset = "eeki",
    up: Rate = None,
    down: Rate = None,
    sender_w: Annotated[float | None, typer.Option(help="Power of the sender while it sends, in W.")] = None,
    receiver_w: Annotated[float | None, typer.Option(help="Power of the receiver while it receives, in W.")] = None,
    encode_w: Annotated[float | None, typer.Option(help="Power of the sender while it encodes, in W.")] = None,
    decode_w: Annotated[float | None, typer.Option(help="Power of the receiver while it decodes, in W.")] = None,
    qp: Qp = None,
    quality: Quality = None,
    target_size: TargetSize = None,
    max_size: MaxSize = None,
    reduce: Reduce = None,
    base: Annotated[Path | None, typer.Option(help="Send only what changes in this model.")] = None,
    threads: Threads = None,
    option: Option = None,
    config: Config = None,
    meter: Annotated[bool, typer.Option("--meter", help="Read this machine's sensors, if it has any.")] = False,
    json: Json = False,
) -> None:
    """Compare the energy of sending a model as it is with encoding, sending and decoding it; writes a record."""
    from wattwerk import terminal, terminal_codec
    from wattwerk.bench import transfer as transfers
    from wattwerk.bench.transfer_run import transfer as balance
    from wattwerk.store import Store

    asked = {
        "qp": qp,
        "quality": quality,
        "target_size": target_size,
        "max_size": max_size,
        "base": None if base is None else str(base),
        "threads": threads,
    }
    request = _request(asked, reduce, option, config)
    assumed = transfers.preset(
        preset,
        up_bit_per_s=None if up is None else up * 1e6,
        down_bit_per_s=None if down is None else down * 1e6,
        sender_transfer_w=sender_w,
        receiver_transfer_w=receiver_w,
        encode_w=encode_w,
        decode_w=decode_w,
    )
    with Store() as store:
        with terminal_codec.WorkProgress(shown=not json) as progress:
            record = balance(model, request, assumed, meter=meter, tell=progress)
        store.add(record)
    terminal.print_json(record) if json else terminal_codec.print_transfer(record)


def _request(asked: dict[str, Any], passes: list[str] | None, texts: list[str] | None, config: Path | None) -> Any:
    """Return what is asked for: the file's values, and over them those of the command line."""
    from wattwerk.codec.model_packing import PackRequest
    from wattwerk.config import read_toml, to_struct

    values = {} if config is None else read_toml(config)
    given = {key: value for key, value in asked.items() if value is not None}
    if given.keys() & _FINENESS:
        values = {key: value for key, value in values.items() if key not in _FINENESS}
    values |= given
    if passes:
        values["reduce"] = [_reduction(text) for text in passes]
    if texts:
        values["options"] = {**values.get("options", {}), **pairs(texts, "--option", "row_skip=false")}
    if "evaluate" in values:
        sys.path.append(str(Path.cwd()))  # the function mostly lies beside the user
    return to_struct(PackRequest, values, str(config or "pack"))


_FINENESS = {"qp", "quality", "target_size", "max_accuracy_loss", "evaluate"}  # one on the command line replaces any


def _reduction(text: str) -> dict[str, Any]:
    name, _, options = text.partition(":")
    found = pairs([pair for pair in options.split(",") if pair], "--reduce", "sparsity=0.5")
    for key in ("only", "skip"):
        if key in found:
            found[key] = str(found[key]).split("+")
    return {"pass": name, **found}


def pairs(texts: list[str], option: str, example: str) -> dict[str, Any]:
    """Read KEY=VALUE pairs; a value is JSON, or else a word."""
    import msgspec

    found: dict[str, Any] = {}
    for pair in texts:
        key, sign, value = pair.partition("=")
        if not (sign and key):
            raise ConfigError(f"{option} {pair!r} has no value", f"write it like {example}")
        try:
            found[key] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            found[key] = value
    return found
