"""The command ``meter``: any command measured, a live view, and the way to data bases. Parse, call, print."""

from __future__ import annotations

import shlex
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

  wattwerk meter --scan 192.0.2.0/28 >> ~/.config/wattwerk/config.toml

  wattwerk meter --calibrate --write
"""

Command = Annotated[
    list[str] | None,
    typer.Argument(help="The command, after two dashes; after --scan addresses.", metavar="-- COMMAND…"),
]
Repeat = Annotated[int | None, typer.Option("--repeat", "-n", help="Runs; their mean is told with its interval (1).")]
Pause = Annotated[float | None, typer.Option(help="Seconds between two runs (0).")]
Idle = Annotated[float | None, typer.Option(help="Seconds in which the idle machine is watched before: gives net.")]
IgnoreFailure = Annotated[bool, typer.Option("--ignore-failure", help="Go on after a run that failed.")]
Name = Annotated[str | None, typer.Option(help="The record's name; the command line if left out.")]
Rate = Annotated[float | None, typer.Option(help="Samples a second (10).")]
Live = Annotated[bool, typer.Option("--live", help="Show channels and totals until Ctrl-C, without a command.")]
Duration = Annotated[float | None, typer.Option(help="Seconds, without a command; until Ctrl-C if left out.")]
Send = Annotated[
    list[str] | None, typer.Option("--send", help="URL, or a name under sinks in config.toml, to send to; repeatable.")
]
Serve = Annotated[str | None, typer.Option("--serve", metavar="[HOST:]PORT", help="Answer Prometheus there.")]
Telegraf = Annotated[str | None, typer.Option(help="Print a configuration of Telegraf: relay, sensors.")]
Dashboard = Annotated[str | None, typer.Option(help="Print a dashboard of Grafana: influxdb, prometheus.")]
Scan = Annotated[bool, typer.Option("--scan", help="Look for meters, also at addresses that follow; propose TOML.")]
Calibrate = Annotated[bool, typer.Option("--calibrate", help="Find delay and gain of slow meters.")]
Load = Annotated[str | None, typer.Option(help="A command that loads the machine; else a process a core.")]
Reference = Annotated[str | None, typer.Option(help="Fast channels to compare with, with commas between; or: load.")]
Pulses = Annotated[int | None, typer.Option(help="How often the load is switched on (12).")]
Write = Annotated[bool, typer.Option("--write", help="Write latency_s into config.toml; a copy of it is kept.")]
Country = Annotated[str | None, typer.Option(help="Whose electricity: code or name.")]
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
    scan: Scan = False,
    calibrate: Calibrate = False,
    load: Load = None,
    reference: Reference = None,
    pulses: Pulses = None,
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
    elif mode == "scan":
        _scan(command or [], json)
    elif mode == "calibrate":
        raise typer.Exit(_calibrate(command or [], given))
    else:
        from wattwerk.meter_command import measure_command

        raise typer.Exit(measure_command(command or [], given))


#: What each way of using the command takes.
_TAKES: dict[str, tuple[str, ...]] = {
    "print": ("telegraf", "dashboard"),
    "scan": ("scan", "json"),
    "calibrate": ("calibrate", "load", "reference", "pulses", "write", "no_record", "json"),
    "watch": ("live", "duration", "send", "serve", "rate", "json"),
    "run": (
        "repeat", "pause", "idle", "ignore_failure", "name", "rate", "send", "serve",
        "country", "carbon", "tariff", "pue", "no_record", "json", "output",
    ),
}  # fmt: skip
_WITH = {
    "print": "--telegraf or --dashboard",
    "scan": "--scan",
    "calibrate": "--calibrate",
    "watch": "no command",
    "run": "a command",
}


def _mode(command: list[str] | None, given: dict[str, Any]) -> str:
    """Return what is asked for; refuse what contradicts itself.

    Raises:
        ConfigError: An option does not go with what is asked for, or nothing is asked for.
    """
    printed = [key for key in _TAKES["print"] if key in given]
    special = [*printed, *(key for key in ("scan", "calibrate") if key in given)]
    if len(special) > 1:
        raise ConfigError(f"--{special[0]} and --{special[1]} exclude each other", "ask for one, then for the other")
    if printed and command:
        raise ConfigError(f"--{printed[0]} goes with no command", "leave one of them out")
    mode = "print" if printed else special[0] if special else "run" if command else "watch"
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


def _scan(targets: list[str], json: bool) -> None:
    from wattwerk import terminal
    from wattwerk.catalog.processors import cpu_power_here
    from wattwerk.meters.scan import scan

    proposal = scan(targets, cpu_power_here())
    terminal.print_json(proposal) if json else sys.stdout.write(proposal.text)


def _calibrate(targets: list[str], given: dict[str, Any]) -> int:
    """Calibrate meters and return the exit code: 1 where no result is to be trusted."""
    from wattwerk import terminal
    from wattwerk.metering.calibrate import Plan, calibrate, keep, write_latencies
    from wattwerk.metering.load import Load
    from wattwerk.metering.sensors import specs_here
    from wattwerk.terminal_calibrate import CalibrationProgress, print_calibration

    reference = tuple(filter(None, given.get("reference", "").split(",")))
    with CalibrationProgress(shown="json" not in given) as progress:
        plan = Plan(pulses=given["pulses"]) if "pulses" in given else Plan()
        load = Load(shlex.split(given.get("load", "")))
        found = calibrate(specs_here(), reference, targets, load, plan, progress)
    if "no_record" not in given:
        keep(found)
    terminal.print_json(found) if "json" in given else print_calibration(found)
    if "write" in given and found.latencies():
        terminal.err.print(
            f"written; as it was: {write_latencies(found)}", soft_wrap=True, markup=False, highlight=False
        )
    return 0 if any(not each.doubts for each in found.channels) else 1
