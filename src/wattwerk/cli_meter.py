"""The command ``meter``: any command measured, a live view, and the way to data bases. Parse, call, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from wattwerk.errors import ConfigError

_EXAMPLES = """
Examples:

  [bold]wattwerk meter -- python train.py[/bold]

  wattwerk meter --repeat 5 --idle 10 -- ./simulate --steps 1000

  wattwerk meter --live --duration 60

  wattwerk meter --send http://127.0.0.1:8086/write?db=power --serve 9877

  wattwerk meter --dashboard influxdb > wattwerk.json

  wattwerk meter --calibrate --write
"""

Command = Annotated[list[str] | None, typer.Argument(help="The command, after two dashes.", metavar="-- COMMAND…")]
Repeat = Annotated[int | None, typer.Option("--repeat", "-n", help="Runs; their mean is told with its interval (1).")]
Pause = Annotated[float | None, typer.Option(help="Seconds between two runs (0).")]
Idle = Annotated[float | None, typer.Option(help="Seconds in which the idle machine is watched before: gives net.")]
IgnoreFailure = Annotated[bool, typer.Option("--ignore-failure", help="Go on after a run that failed.")]
Name = Annotated[str | None, typer.Option(help="The record's name; the command line if left out.")]
Rate = Annotated[float | None, typer.Option(help="Samples a second (10).")]
Live = Annotated[bool, typer.Option("--live", help="Show channels and totals until Ctrl-C, without a command.")]
Duration = Annotated[float | None, typer.Option(help="Seconds, without a command; until Ctrl-C if left out.")]
Send = Annotated[
    list[str] | None, typer.Option("--send", help="URL, or name of a section [[sinks.NAME]], to send to; repeatable.")
]
Serve = Annotated[str | None, typer.Option("--serve", metavar="[HOST:]PORT", help="Answer Prometheus there.")]
Telegraf = Annotated[str | None, typer.Option(help="Print a configuration of Telegraf: relay, sensors.")]
Dashboard = Annotated[str | None, typer.Option(help="Print a dashboard of Grafana: influxdb, prometheus.")]
Calibrate = Annotated[bool, typer.Option("--calibrate", help="Find delay and gain of wall meters: takes minutes.")]
LoadWith = Annotated[str | None, typer.Option("--load", help="Command that loads the machine, for --calibrate.")]
Reference = Annotated[
    list[str] | None, typer.Option(help="Channel to calibrate against, or load; repeatable, then added up.")
]
Target = Annotated[list[str] | None, typer.Option(help="Channel to calibrate; repeatable; else all of slow meters.")]
Write = Annotated[bool, typer.Option("--write", help="Write the delays that were found into config.toml.")]
Country = Annotated[str | None, typer.Option(help="Whose electricity: code or name. Else [[account]], else the world.")]
Carbon = Annotated[str | None, typer.Option(help="Grams of CO2 per kWh, or a preset.")]
Tariff = Annotated[str | None, typer.Option(help="Euros per kWh, or a preset.")]
Pue = Annotated[str | None, typer.Option(help="Energy of the building over that of its machines, or a preset (1).")]
NoRecord = Annotated[bool, typer.Option("--no-record", help="Keep no record.")]
Json = Annotated[bool, typer.Option("--json", help="JSON in place of text; beside a command it goes where that goes.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="A file in place of the standard error output.")]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    # options end at the command: what follows is the command's, also without the two dashes
    app.command(epilog=_EXAMPLES, context_settings={"allow_interspersed_args": False})(meter)


def meter(
    command: Command = None,
    repeat: Repeat = None,
    pause: Pause = None,
    idle: Idle = None,
    ignore_failure: IgnoreFailure = False,
    name: Name = None,
    rate: Rate = None,
    live: Live = False,
    duration: Duration = None,
    send: Send = None,
    serve: Serve = None,
    telegraf: Telegraf = None,
    dashboard: Dashboard = None,
    calibrate: Calibrate = False,
    load: LoadWith = None,
    reference: Reference = None,
    target: Target = None,
    write: Write = False,
    country: Country = None,
    carbon: Carbon = None,
    tariff: Tariff = None,
    pue: Pue = None,
    no_record: NoRecord = False,
    json: Json = False,
    output: Output = None,
) -> None:
    """Measure any command as time does: time, energy, power, CO2 and cost. Or watch and send what the meters say.

    The command's streams, signals and exit code are its own; what was measured goes to the standard error output.
    """
    asked = {key: value for key, value in locals().items() if key != "command"}
    given = {key: value for key, value in asked.items() if not (value is None or value is False or value == [])}
    mode = _mode(command, given)
    if mode == "print":
        _print_configuration(telegraf, dashboard)
    elif mode == "watch":
        _watch(given)
    elif mode == "calibrate":
        from wattwerk import terminal_calibrate

        terminal_calibrate.run(load or "", reference or (), target or (), write=write, json=json, keep=not no_record)
    else:
        from wattwerk.meter_command import measure_command

        raise typer.Exit(measure_command(command or [], given))


#: What each way of using the command takes.
_TAKES: dict[str, tuple[str, ...]] = {
    "print": ("telegraf", "dashboard"),
    "watch": ("live", "duration", "send", "serve", "rate", "json"),
    "calibrate": ("calibrate", "load", "reference", "target", "write", "no_record", "json"),
    "run": (
        "repeat", "pause", "idle", "ignore_failure", "name", "rate", "send", "serve",
        "country", "carbon", "tariff", "pue", "no_record", "json", "output",
    ),
}  # fmt: skip
_WITH = {"print": "--telegraf or --dashboard", "watch": "no command", "calibrate": "--calibrate", "run": "a command"}


def _mode(command: list[str] | None, given: dict[str, Any]) -> str:
    """Return what is asked for; refuse what contradicts itself.

    Raises:
        ConfigError: An option does not go with what is asked for, or nothing is asked for.
    """
    printed = [key for key in _TAKES["print"] if key in given]
    if len(printed) > 1:
        raise ConfigError("--telegraf and --dashboard exclude each other", "ask for one, then for the other")
    if printed and command:
        raise ConfigError(f"--{printed[0]} goes with no command", "leave one of them out")
    if "calibrate" in given and command:
        raise ConfigError("--calibrate goes with no command", 'give it as --load "COMMAND"')
    mode = "print" if printed else "calibrate" if "calibrate" in given else "run" if command else "watch"
    wrong = [key for key in given if key not in _TAKES[mode]]
    if mode == "watch" and not {"live", "send", "serve"} & given.keys():
        raise ConfigError("no command to measure", "write it after two dashes: wattwerk meter -- COMMAND…, or --live")
    if wrong:
        raise ConfigError(f"--{wrong[0].replace('_', '-')} goes not with {_WITH[mode]}", "leave it out")
    return mode


def _print_configuration(telegraf: str | None, dashboard: str | None) -> None:
    if telegraf is not None:
        from wattwerk.meters.telegraf import telegraf_config

        sys.stdout.write(telegraf_config(telegraf))
    else:
        from wattwerk.meters.dashboard import dashboard as make

        sys.stdout.write(make(dashboard).decode())  # type: ignore[arg-type] # it refuses what it does not know


def _watch(given: dict[str, Any]) -> None:
    from wattwerk.metering.watching import recording
    from wattwerk.terminal_live import watch

    with recording(given.get("rate", 10.0), given.get("send"), given.get("serve")) as (recorder, stream):
        for line in stream.places():
            sys.stderr.write(f"{line}\n")
        watch(recorder, duration_s=given.get("duration"), total=stream.total, faults=stream.faults)
