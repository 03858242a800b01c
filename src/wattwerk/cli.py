"""The command line: parse, call, print; nothing else, and nothing heavy at import.

Exit codes: 0 fine, 1 a check failed, 2 bad use, 3 something is unavailable here, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wattwerk import __version__, cli_bench, cli_codec, cli_meter
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
cli_bench.register(app)
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
