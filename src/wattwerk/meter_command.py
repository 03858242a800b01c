"""What ``wattwerk meter`` does with a command: measure it, and tell on the standard error output."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wattwerk.errors import WattwerkError


def main(command: Sequence[str]) -> None:
    """Measure a command without options, and leave with its exit code: what ``wattwerk meter -- COMMAND`` does.

    There is nothing to parse then, and a sixth of the time until the command runs would go into importing the parser.
    """
    lenient_streams()
    try:
        code = measure_command(command, {})
    except WattwerkError as error:
        from wattwerk import terminal

        terminal.print_error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def lenient_streams() -> None:
    """Let signs be replaced that a terminal or pipe cannot show: they are no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def measure_command(command: Sequence[str], given: Mapping[str, Any]) -> int:
    """Measure a command, tell what was measured, and return its exit code.

    Args:
        command: The command and its arguments.
        given: Options of ``wattwerk meter`` by their names, as far as they were given.

    Raises:
        WattwerkError: It could not be measured.
    """
    from wattwerk.metering.command import run_command
    from wattwerk.metering.sensors import account_changes
    from wattwerk.metering.watching import beside
    from wattwerk.terminal_meter import outcome_lines

    account = {key: given[key] for key in ("country", "carbon", "tariff", "pue") if key in given}
    outcome = run_command(
        command,
        name=given.get("name", ""),
        repeat=given.get("repeat", 1),
        pause_s=given.get("pause", 0.0),
        idle_s=given.get("idle", 0.0),
        ignore_failure=given.get("ignore_failure", False),
        rate_hz=given.get("rate", 10.0),
        account=account_changes(**account),
        keep=not given.get("no_record", False),
        beside=beside(given.get("send"), given.get("serve")),
    )
    if "json" in given:
        import msgspec

        text = msgspec.json.format(msgspec.json.encode(outcome), indent=2).decode()
    else:
        text = "\n".join(outcome_lines(outcome))
    _write(text + "\n", given.get("output"))
    return 130 if outcome.interrupted else outcome.exit_code


def _write(text: str, path: Path | None) -> None:
    """Write to a file or the standard error output; where neither can be, the exit code still passes."""
    try:
        if path is None:
            sys.stderr.write(text)
            sys.stderr.flush()
        else:
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"error: {path} cannot be written ({error.strerror})\n{text}")
