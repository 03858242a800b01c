"""Recording without an end, and what goes to data bases and Prometheus meanwhile or beside a command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from wattwerk.errors import ConfigError
from wattwerk.metering import sensors
from wattwerk.metering.recording import recorder_here
from wattwerk.meters.recorder import Recorder

#: How long samples of a recording without an end are kept: whoever follows may be away for so long.
KEEP_S: Final = 900.0

if TYPE_CHECKING:
    from wattwerk.metering.command import Beside
    from wattwerk.meters.streaming import Streaming


@contextmanager
def recording(
    rate_hz: float, send: Sequence[str] | None = None, serve: str | None = None
) -> Iterator[tuple[Recorder, Streaming]]:
    """Record with the meters of this machine, and stream, until the block ends.

    Args:
        rate_hz: Samples a second.
        send: URLs, or names of sections ``[sinks.<name>]``.
        serve: ``[HOST:]PORT`` for Prometheus.

    Raises:
        ConfigError: A meter, a sink, an address or ``config.toml`` cannot be used.
        UnavailableError: A sink refuses or does not answer, or a package is missing.
        MeasurementError: The recorder did not start.
    """
    with recorder_here(rate_hz, KEEP_S) as recorder, _streaming(recorder, send, serve) as stream:
        yield recorder, stream


def beside(send: Sequence[str] | None = None, serve: str | None = None) -> Beside | None:
    """Return what streams while a command runs, as ``run_command`` takes it; None where nothing is asked for."""
    if not send and serve is None:
        return None

    @contextmanager
    def going_on(recorder: Recorder) -> Iterator[Callable[[], Sequence[str]]]:
        with _streaming(recorder, send, serve) as stream:
            yield stream.faults

    return going_on


@contextmanager
def _streaming(recorder: Recorder, send: Sequence[str] | None, serve: str | None) -> Iterator[Streaming]:
    from wattwerk.meters.streaming import Streaming, streaming

    if not send and serve is None:
        yield Streaming(sensors.total_here())
        return
    with streaming(recorder, sinks=list(send or ()), exporter=serve is not None and address_of(serve)) as stream:
        yield stream


def address_of(text: str) -> tuple[str, int]:
    """Return host and port of ``[HOST:]PORT``; an empty host stands for the configured one.

    Raises:
        ConfigError: It is none.
    """
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--serve {text!r} is no address", "write it like 9877 or 0.0.0.0:9877")
    return host.strip("[]"), int(port)
