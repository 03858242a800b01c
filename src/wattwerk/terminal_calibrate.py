"""What people see of a calibration: what is going on, what was found, and what to write into ``config.toml``."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from wattwerk import terminal
from wattwerk.metering.calibrate import Calibrated, Calibration
from wattwerk.metering.calibration import Fit
from wattwerk.metering.comparison import LOAD
from wattwerk.units import format_value


class CalibrationProgress:
    """A progress line on the standard error output; nothing where there is no terminal.

    Args:
        shown: Whether to show it at all.
    """

    def __init__(self, shown: bool = True) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=terminal.err,
            transient=True,
            disable=not (shown and terminal.err.is_terminal),
        )
        self._task = self._progress.add_task("starting", total=1.0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, text: str, share: float) -> None:
        """Show what is going on, and how much is done."""
        self._progress.update(self._task, description=f"{text:<18}", completed=share)


def calibration_lines(found: Calibration) -> list[str]:
    """Return in words what was found, up to 80 columns wide where names are not long."""
    lines = [f"{found.plan.pulses} pulses of {found.load} on {found.platform.label}"]
    for each in found.channels:
        lines += ["", *_channel_lines(each)]
    lines += [f"meter at fault: {fault}" for fault in found.faults]
    if toml := found.toml():
        lines += ["", "for config.toml:", "", *toml.rstrip().splitlines()]
    return lines


def _channel_lines(each: Calibrated) -> list[str]:
    against = "the load's own times" if each.reference == [LOAD] else " + ".join(each.reference)
    lines = [f"{each.channel}, against {against}"]
    if each.fit:
        lines += [f"  {word:<9} {text}" for word, text in _rows(each, each.fit)]
    lines += [f"  not to be trusted: {doubt}" for doubt in each.doubts]
    if each.fit and each.fit.trusted and not each.configurable:
        lines.append(f"  the meter {each.meter} has no option latency_s: nothing to write")
    return lines


def _rows(each: Calibrated, fit: Fit) -> list[tuple[str, str]]:
    low, high = fit.gain_low_ratio, fit.gain_high_ratio
    rows = [
        ("delay", f"{fit.delay_s:.2f} s ({fit.delay_low_s:.2f} to {fit.delay_high_s:.2f} s)"),
        ("spread", f"{fit.window_s:.2g} s: averaging, and how long a value is kept"),
    ]
    if each.reference == [LOAD]:
        rows.append(("step", f"{fit.gain_ratio:.4g} W ({low:.4g} to {high:.4g} W)"))
        rows.append(("at rest", _watts(fit.offset_w)))
    else:
        rows.append(("gain", f"{fit.gain_ratio:.3f} ({low:.3f} to {high:.3f}) for each watt of the reference"))
        rows.append(
            ("offset", f"{_watts(fit.offset_w)} where the reference is 0; the load's step {_watts(fit.step_w)}")
        )
    rows.append(("fit", f"{fit.fit_ratio:.1%} explained, noise {_watts(fit.noise_w)}, drift {_watts(fit.drift_w)}"))
    return rows


def _watts(value: float) -> str:
    return format_value("power_w", value)


def print_calibration(found: Calibration) -> None:
    """Print what was found."""
    for line in calibration_lines(found):
        terminal.say(line)
