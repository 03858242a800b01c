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


Models = Annotated[
    list[str] | None,
    typer.Argument(help="Names of the catalog (wattwerk models), ONNX files, package.module:factory."),
]
Runtime = Annotated[str | None, typer.Option("--runtime", "-r", help="Runtimes, with commas between; all.")]
Precision = Annotated[str | None, typer.Option("--precision", "-p", help="fp32, tf32, bf16, fp16, int8; all.")]
Batch = Annotated[str | None, typer.Option("--batch", "-b", help="Batch sizes, such as 1,2,4,8,16,32.")]
Device = Annotated[str | None, typer.Option("--device", "-d", help="Devices, such as cpu or cuda:0; auto.")]
Threads = Annotated[str | None, typer.Option("--threads", "-t", help="Thread counts on the CPU.")]
Options = Annotated[list[str] | None, typer.Option("--option", "-o", help="KEY=VALUE for the runtime; repeatable.")]
Weights = Annotated[str | None, typer.Option(help="Real weights: .onnx, .safetensors or a hub id.")]
InputShape = Annotated[str | None, typer.Option(help="One sample's shape, such as 3,224,224.")]
IsPipeline = Annotated[
    bool, typer.Option("--pipeline", help="Measure from photos to results: pre-processing, inference, the rest.")
]
Processing = Annotated[
    str | None, typer.Option(help="With --pipeline: sequential, vectorised (the default), overlapped; all.")
]
Images = Annotated[Path | None, typer.Option(help="With --pipeline: a folder of photos.")]
Dataset = Annotated[
    Path | None,
    typer.Option(help="Accuracy beside speed: class folders, a labels file, COCO json, masks; or photos alone."),
]
DatasetLimit = Annotated[int | None, typer.Option(help="Photos of the data set at most, evenly spread.")]
Calibration = Annotated[Path | None, typer.Option(help="With --dataset: photos to calibrate int8 with.")]
Full = Annotated[bool | None, typer.Option("--full/--quick", help="Energy windows of 10 s, or of 2 s (the default).")]
Iterations = Annotated[int | None, typer.Option(help="Timed iterations (200).")]
Warmup = Annotated[int | None, typer.Option(help="Untimed iterations before (20).")]
Windows = Annotated[int | None, typer.Option(help="Energy windows (5).")]
WindowS = Annotated[float | None, typer.Option(help="Length of an energy window in seconds.")]
IdleS = Annotated[float | None, typer.Option(help="Length of an idle measurement in seconds.")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, inputs and order (0).")]
Streams = Annotated[str | None, typer.Option(help="Sessions that run at once, such as 1,2,4.")]
Together = Annotated[bool, typer.Option("--together", help="All models at once, beside each alone.")]
Scenario = Annotated[
    str | None, typer.Option(help="Load by LoadGen: single-stream, multi-stream, server, offline; all.")
]
LatencyLimit = Annotated[float | None, typer.Option(help="How many seconds a query may take.")]
Percentile = Annotated[float | None, typer.Option(help="Percent of the queries that keep the limit.")]
Study = Annotated[
    str | None, typer.Option(help="A study file, or the name of one: ipa. Models and -r -p -b -d take a part of it.")
]
Estimate = Annotated[
    bool,
    typer.Option("--estimate", help="Tell how much there is to do and how long it takes; with --resume, of the rest."),
]
ConfigFile = Annotated[Path | None, typer.Option(help="A TOML file with all of this.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the last sweep that was cut off.")]
Report = Annotated[Path | None, typer.Option(help="Where the report goes (in WATTWERK_HOME).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on the standard output, and nothing else there.")]

#: Options that are deviations from the procedure.
_PROCEDURE = ("iterations", "warmup", "windows", "window_s", "idle_s", "seed")


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
    models: Models = None,
    runtime: Runtime = None,
    precision: Precision = None,
    batch: Batch = None,
    device: Device = None,
    threads: Threads = None,
    option: Options = None,
    weights: Weights = None,
    input_shape: InputShape = None,
    pipeline: IsPipeline = False,
    processing: Processing = None,
    images: Images = None,
    dataset: Dataset = None,
    dataset_limit: DatasetLimit = None,
    calibration: Calibration = None,
    full: Full = None,
    iterations: Iterations = None,
    warmup: Warmup = None,
    windows: Windows = None,
    window_s: WindowS = None,
    idle_s: IdleS = None,
    seed: Seed = None,
    streams: Streams = None,
    together: Together = False,
    scenario: Scenario = None,
    latency_limit: LatencyLimit = None,
    percentile: Percentile = None,
    study: Study = None,
    estimate: Estimate = False,
    config: ConfigFile = None,
    resume: Resume = False,
    report: Report = None,
    json: Json = False,
) -> None:
    """Measure latency, throughput, power and energy of models.

    Without options it takes onnxruntime, fp32, batch 1 and the best device, and is done within a minute.
    Exit code 1 if no configuration gave a result.
    """
    asked = _asked(locals())
    from wattwerk import terminal
    from wattwerk.bench import campaign

    sys.path.append(str(Path.cwd()))  # a factory mostly lies beside the user; the worker gets the same path
    if estimate:
        _show_forecast(campaign.estimate(asked, config, study=study, resume=resume), json)
        return
    with terminal.SweepProgress(shown=not json) as progress:
        outcome = campaign.bench(asked, config, study=study, resume=resume, report=report, listener=progress)
    _show_outcome(outcome, json)


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the command as keys of ``plan.Request``."""
    return {
        "models": tuple(options["models"] or ()),
        "runtimes": _words(options["runtime"]),
        "precisions": _words(options["precision"]),
        "batches": _numbers(options["batch"], "--batch"),
        "devices": _words(options["device"]),
        "threads": _numbers(options["threads"], "--threads"),
        "options": cli_codec.pairs(options["option"] or [], "--option", "channels_last=true"),
        "input_shape": _numbers(options["input_shape"], "--input-shape") or None,
        "pipeline": options["pipeline"] or None,
        "processings": _words(options["processing"]),
        "streams": _numbers(options["streams"], "--streams"),
        "together": options["together"] or None,
        "scenarios": _words(options["scenario"]),
        "load": {"latency_limit_s": options["latency_limit"], "percentile": options["percentile"]},
        "procedure": {key: options[key] for key in _PROCEDURE},
        **{key: options[key] for key in ("weights", "full", "dataset_limit")},
        **{key: _absolute(options[key]) for key in ("images", "dataset", "calibration")},
    }


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
