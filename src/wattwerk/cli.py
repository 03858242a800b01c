"""The command line: parse, call, print; nothing else, and nothing heavy at import.

Exit codes: 0 fine, 1 a check failed, 2 bad use, 3 something is unavailable here, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from wattwerk import __version__, cli_codec, cli_meter
from wattwerk.errors import ConfigError, WattwerkError
from wattwerk.meter_command import lenient_streams

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find out by measuring which runtime, precision and batch size run a model fastest and with the least energy.",
    epilog="Start with [bold]wattwerk bench mobilenet-v2[/bold]; "
    "[bold]wattwerk doctor[/bold] shows what can be measured here.",
)
results = typer.Typer(no_args_is_help=True, help="List, show, delete and export what was measured.")
app.add_typer(results, name="results")
cli_codec.register(app)
cli_meter.register(app)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on the standard output, and nothing else there.")]


def main() -> None:
    """Run the command line and leave with its exit code."""
    lenient_streams()
    try:
        code = app(standalone_mode=False)
    except WattwerkError as error:
        from wattwerk import terminal

        terminal.print_error(error)
        code = error.exit_code
    except typer.Exit as leave:
        code = leave.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        code = _usage(error)
    sys.exit(code)


def _usage(error: Exception) -> int:
    """Show what the parser objects to; anything else is a fault of ours and keeps its traceback."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    return 2


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wattwerk {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    return


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word for word in (text or "").replace(" ", "").split(",") if word)


def _numbers(text: str | None, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError as error:
        raise ConfigError(f"{option} {text!r} is no list of whole numbers", "write it like 1,2,4") from error


@app.command(
    epilog="""
Examples:

  [bold]wattwerk bench mobilenet-v2[/bold]

  wattwerk bench resnet-50 vit-b-16 --runtime all --precision all --batch 1,8,32

  wattwerk bench my.onnx --runtime openvino --threads 1,2,4 --full

  wattwerk bench mobilenet-v2 --scenario server --latency-limit 0.05

  wattwerk bench detr-r50 --pipeline --processing all --batch 1,8

  wattwerk bench --resume
"""
)
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
    scenario: Annotated[
        str | None, typer.Option(help="Load by LoadGen: single-stream, multi-stream, server, offline; all.")
    ] = None,
    latency_limit: Annotated[float | None, typer.Option(help="How many seconds a query may take.")] = None,
    percentile: Annotated[float | None, typer.Option(help="Percent of the queries that keep the limit.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with all of this.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the last sweep that was cut off.")] = False,
    report: Annotated[Path | None, typer.Option(help="Where the report goes (in WATTWERK_HOME).")] = None,
    json: Json = False,
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
        "images": str(images.expanduser().absolute()) if images else None,
        "procedure": {
            "iterations": iterations,
            "warmup": warmup,
            "windows": windows,
            "window_s": window_s,
            "idle_s": idle_s,
            "seed": seed,
        },
        "streams": _numbers(streams, "--streams"),
        "scenarios": _words(scenario),
        "load": {"latency_limit_s": latency_limit, "percentile": percentile},
    }
    with terminal.SweepProgress(shown=not json) as progress:
        outcome = campaign.bench(asked, config, resume=resume, report=report, listener=progress)
    _show_outcome(outcome, json)


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


@results.command("list")
def results_list(
    reference: Annotated[str | None, typer.Argument(help="A sweep's id; all of them if left out.")] = None,
    json: Json = False,
) -> None:
    """List the records, oldest first."""
    from wattwerk import terminal
    from wattwerk.store import Store

    with Store() as store:
        records = store.find(reference) if reference else store.records()
    if json:
        terminal.print_json(records)
    elif not records:
        terminal.out.print("The store is empty. Start with: wattwerk bench mobilenet-v2")
    else:
        terminal.out.print(terminal.records_table(records, with_id=True))
        for line in terminal.legend(records):
            terminal.out.print(line, highlight=False, markup=False)


@results.command("show")
def results_show(
    reference: Annotated[str, typer.Argument(help="First digits of a record's or sweep's id, or: last.")],
    json: Json = False,
) -> None:
    """Show every figure of a record, with its bounds and where it comes from."""
    from wattwerk import terminal
    from wattwerk.store import Store

    with Store() as store:
        records = store.find(reference)
    if json:
        terminal.print_json(records)
        return
    for record in records:
        for table in terminal.record_page(record):
            terminal.out.print(table, highlight=False, markup=False)
            terminal.out.print()


@results.command("delete")
def results_delete(
    references: Annotated[list[str], typer.Argument(help="First digits of the ids of records or sweeps.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete records for good."""
    from wattwerk import terminal
    from wattwerk.store import Store

    with Store() as store:
        ids = list(dict.fromkeys(record.id for reference in references for record in store.find(reference)))
        if not yes:
            if json or not sys.stdin.isatty():
                raise ConfigError(f"this would delete {len(ids)} records", "say --yes if that is meant")
            typer.confirm(f"Delete {len(ids)} records for good?", abort=True)
        count = store.delete(ids)
    terminal.print_json({"deleted": ids}) if json else terminal.out.print(f"Deleted {count} records.")


@results.command("export")
def results_export(
    references: Annotated[list[str] | None, typer.Argument(help="Ids of records or sweeps; all if left out.")] = None,
    form: Annotated[str, typer.Option("--format", "-f", help="json, csv or parquet.")] = "json",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; standard output if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Write records as JSON (everything), CSV or Parquet (one row a record)."""
    from wattwerk import export, terminal
    from wattwerk.store import Store

    with Store() as store:
        records = [r for ref in references for r in store.find(ref)] if references else store.records()
    data = export.encode(records, form)
    if output is None:
        if form == "parquet" and sys.stdout.isatty():
            raise ConfigError("Parquet is no text", "give a file with --output")
        sys.stdout.buffer.write(data)
        return
    export.write(data, output)
    told = {"file": str(output), "records": len(records)}
    terminal.print_json(told) if json else terminal.say(f"{len(records)} records → {output}")


@app.command(
    epilog="""
Examples:

  wattwerk compare 3f2a 91bc

  wattwerk compare baseline.json last --tolerance 0.03    (in CI: exit code 1 if slower or hungrier)
"""
)
def compare(
    before: Annotated[str, typer.Argument(help="A: id of a record or sweep, last, or a JSON file.")],
    after: Annotated[str, typer.Argument(help="B: likewise.")],
    tolerance: Annotated[float, typer.Option(help="How much worse B may be, as a fraction.")] = 0.05,
    json: Json = False,
) -> None:
    """Compare B with A: speed-up, energy ratio, significance. Exit code 1 on a regression."""
    from wattwerk import terminal
    from wattwerk.bench import compare as comparing
    from wattwerk.bench.campaign import gather

    if tolerance < 0:
        raise ConfigError(f"--tolerance {tolerance} is negative", "use a fraction such as 0.05")
    comparison = comparing.compare(gather([before]), gather([after]), tolerance_ratio=tolerance)
    if json:
        terminal.print_json(comparison.as_dict())
    else:
        comparison.render(terminal.out)
    if comparison.regressed:
        raise typer.Exit(1)


@app.command(
    epilog="""
Examples:

  wattwerk report last --output report.html

  wattwerk report --merge laptop.db server.json --output both.html

  wattwerk report last --language de
"""
)
def report(
    references: Annotated[
        list[str] | None,
        typer.Argument(help="Ids of records or sweeps, JSON files, stores; the last sweep if left out."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("wattwerk-report.html"),
    title: Annotated[str | None, typer.Option(help="The report's title.")] = None,
    with_study: Annotated[
        bool, typer.Option("--with-study", help="Lay the values that the Fraunhofer IPA study published beside.")
    ] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Every argument is a file: a store (records.db) or an export.")
    ] = False,
    figures: Annotated[
        Path | None, typer.Option(help="A folder for every chart as SVG, PNG and CSV; needs Chromium, Chrome or Edge.")
    ] = None,
    language: Annotated[str, typer.Option("--language", "-l", help="en or de.")] = "en",
    json: Json = False,
) -> None:
    """Write one self-contained HTML file: summary in words, charts, table. It needs no network."""
    from wattwerk import terminal
    from wattwerk.bench.campaign import gather
    from wattwerk.bench.report import write_report
    from wattwerk.bench.report.pictures import write_figures
    from wattwerk.language import speaking

    if merge and not references:
        raise ConfigError("--merge needs files", "name stores or exports: wattwerk report --merge a.db b.json")
    records = gather(references or ["last"], files=merge)
    with speaking(language):
        write_report(records, output, title=title, with_study=with_study)
        files = write_figures(records, figures, with_study=with_study) if figures else []
    told = {"file": str(output), "records": len(records), "figures": [str(file) for file in files]}
    if json:
        terminal.print_json(told)
        return
    terminal.say(f"{len(records)} records → {output}")
    if figures:
        terminal.say(f"{len(files)} files of charts → {figures}")


@app.command()
def models(json: Json = False) -> None:
    """List the built-in models with their parameters and operations."""
    from wattwerk import terminal
    from wattwerk.bench import campaign

    found = campaign.model_list()
    if json:
        terminal.print_json(found)
    else:
        terminal.out.print(terminal.models_table(found))


@app.command()
def doctor(json: Json = False) -> None:
    """Show what can be measured here: every meter, runtime and device, with reason and remedy.

    Exit code 3 if no runtime is available.
    """
    from wattwerk import terminal
    from wattwerk.bench import campaign

    found = campaign.examine()
    if json:
        terminal.print_json(found)
    else:
        terminal.print_examination(found)
    if not any(probe.available for probe in found["runtimes"].values()):
        raise typer.Exit(3)


if __name__ == "__main__":
    main()
