"""The command ``bench``: parse, call, print; nothing heavy at import."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from wattwerk import cli_codec
from wattwerk.errors import ConfigError

_EXAMPLES = """
Examples:

  [bold]wattwerk bench mobilenet-v2[/bold]

  wattwerk bench resnet-50 vit-b-16 --runtime all --precision all --batch 1,8,32

  wattwerk bench my.onnx --runtime openvino --threads 1,2,4 --full

  wattwerk bench mobilenet-v2 --scenario server --latency-limit 0.05

  wattwerk bench mobilenet-v2 resnet-50 --together

  wattwerk bench my.onnx --precision fp32,int8 --dataset photos/

  wattwerk bench detr-r50 --pipeline --processing all --batch 1,8

  wattwerk bench --study ipa --estimate

  wattwerk bench --resume
"""


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog=_EXAMPLES)(bench)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word for word in (text or "").replace(" ", "").split(",") if word)


def _numbers(text: str | None, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError as error:
        raise ConfigError(f"{option} {text!r} is no list of whole numbers", "write it like 1,2,4") from error


def _absolute(path: Path | None) -> str | None:
    return str(path.expanduser().absolute()) if path else None


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Names of the catalog (wattwerk models), ONNX files, package.module:factory."),
    ] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", "-r", help="Runtimes, with commas between; all.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", "-p", help="fp32, tf32, bf16, fp16, int8; all.")
    ] = None,
    batch: Annotated[str | None, typer.Option("--batch", "-b", help="Batch sizes, such as 1,2,4,8,16,32.")] = None,
    device: Annotated[str | None, typer.Option("--device", "-d", help="Devices, such as cpu or cuda:0; auto.")] = None,
    threads: Annotated[str | None, typer.Option("--threads", "-t", help="Thread counts on the CPU.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="KEY=VALUE for the runtime; repeatable.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Real weights: .onnx, .safetensors or a hub id.")] = None,
    input_shape: Annotated[str | None, typer.Option(help="One sample's shape, such as 3,224,224.")] = None,
    pipeline: Annotated[
        bool, typer.Option("--pipeline", help="Measure from photos to results: pre-processing, inference, the rest.")
    ] = False,
    processing: Annotated[
        str | None, typer.Option(help="With --pipeline: sequential, vectorised (the default), overlapped; all.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="With --pipeline: a folder of photos.")] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(help="Accuracy beside speed: class folders, a labels file, COCO json, masks; or photos alone."),
    ] = None,
    dataset_limit: Annotated[int | None, typer.Option(help="Photos of the data set at most, evenly spread.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="With --dataset: photos to calibrate int8 with.")] = None,
    full: Annotated[
        bool | None, typer.Option("--full/--quick", help="Energy windows of 10 s, or of 2 s (the default).")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Timed iterations (200).")] = None,
    warmup: Annotated[int | None, typer.Option(help="Untimed iterations before (20).")] = None,
    windows: Annotated[int | None, typer.Option(help="Energy windows (5).")] = None,
    window_s: Annotated[float | None, typer.Option(help="Length of an energy window in seconds.")] = None,
    idle_s: Annotated[float | None, typer.Option(help="Length of an idle measurement in seconds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, inputs and order (0).")] = None,
    streams: Annotated[str | None, typer.Option(help="Sessions that run at once, such as 1,2,4.")] = None,
    together: Annotated[bool, typer.Option("--together", help="All models at once, beside each alone.")] = False,
    scenario: Annotated[
        str | None, typer.Option(help="Load by LoadGen: single-stream, multi-stream, server, offline; all.")
    ] = None,
    latency_limit: Annotated[float | None, typer.Option(help="How many seconds a query may take.")] = None,
    percentile: Annotated[float | None, typer.Option(help="Percent of the queries that keep the limit.")] = None,
    study: Annotated[
        str | None,
        typer.Option(help="A study file, or the name of one: ipa. Models and -r -p -b -d take a part of it."),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Tell how much there is to do and how long it takes, and stop.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="A TOML file with all of this.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the last sweep that was cut off.")] = False,
    report: Annotated[Path | None, typer.Option(help="Where the report goes (in WATTWERK_HOME).")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON on the standard output, and nothing else there.")
    ] = False,
) -> None:
    """Measure latency, throughput, power and energy of models.

    Without options it takes onnxruntime, fp32, batch 1 and the best device, and is done within a minute.
    Exit code 1 if no configuration gave a result.
    """
    from wattwerk import terminal
    from wattwerk.bench import campaign

    sys.path.append(str(Path.cwd()))  # a factory mostly lies beside the user; the worker gets the same path
    asked: dict[str, Any] = {
        "models": tuple(models or ()),
        "runtimes": _words(runtime),
        "precisions": _words(precision),
        "batches": _numbers(batch, "--batch"),
        "devices": _words(device),
        "threads": _numbers(threads, "--threads"),
        "options": cli_codec.pairs(option or [], "--option", "channels_last=true"),
        "weights": weights,
        "input_shape": _numbers(input_shape, "--input-shape") or None,
        "full": full,
        "pipeline": pipeline or None,
        "processings": _words(processing),
        "images": _absolute(images),
        "dataset": _absolute(dataset),
        "dataset_limit": dataset_limit,
        "calibration": _absolute(calibration),
        "procedure": {
            "iterations": iterations,
            "warmup": warmup,
            "windows": windows,
            "window_s": window_s,
            "idle_s": idle_s,
            "seed": seed,
        },
        "streams": _numbers(streams, "--streams"),
        "together": together or None,
        "scenarios": _words(scenario),
        "load": {"latency_limit_s": latency_limit, "percentile": percentile},
    }
    if estimate and resume:
        raise ConfigError("--estimate and --resume do not go together", "leave one of them out")
    if estimate:
        _show_forecast(campaign.estimate(asked, config, study=study), json)
        return
    with terminal.SweepProgress(shown=not json) as progress:
        outcome = campaign.bench(asked, config, study=study, resume=resume, report=report, listener=progress)
    _show_outcome(outcome, json)


def _show_forecast(forecast: Any, json: bool) -> None:
    from wattwerk import terminal

    if json:
        terminal.print_json(forecast.as_dict())
        return
    terminal.out.print(terminal.forecast_table(forecast))
    for line in ["", *forecast.reasons(), "", f"{forecast.sentence()}."]:
        terminal.say(line)


def _show_outcome(outcome: Any, json: bool) -> None:
    from wattwerk import terminal

    if json:
        terminal.print_json(outcome.as_dict())
    else:
        terminal.out.print(terminal.records_table(outcome.records, with_id=False))
        sentences = outcome.summary.sentences if outcome.summary else []
        for line in [*terminal.legend(outcome.records), "", *sentences]:
            terminal.out.print(line, highlight=False, markup=False)
        if outcome.report:
            terminal.out.print(f"\nReport: {outcome.report}", soft_wrap=True, highlight=False, markup=False)
    if outcome.interrupted:
        if not json:
            terminal.err.print("Interrupted; what is done is kept. Go on with: wattwerk bench --resume")
        raise typer.Exit(130)
    if not any(record.figures for record in outcome.records):
        raise typer.Exit(1)
