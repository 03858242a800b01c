"""A running recorder's way out, as ``config.toml`` says it: to its sinks, and to Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import msgspec

from wattwerk.errors import ConfigError
from wattwerk.meters.exporter import Exporter, serve
from wattwerk.meters.forward import Forwarder
from wattwerk.meters.live import Live
from wattwerk.meters.recorder import Recorder
from wattwerk.meters.sink_config import (
    ForwardConfig,
    exporter_config,
    forward_config,
    open_all_configured,
    open_places,
)


class Streaming(msgspec.Struct, frozen=True):
    """What goes where.

    Attributes:
        total: The channels that make up the system's total, as configured; empty for those that lie inside no other.
        forwarder: Sends to the sinks; None if there are none.
        exporter: Answers Prometheus; None if it does not.
    """

    total: tuple[str, ...] = ()
    forwarder: Forwarder | None = None
    exporter: Exporter | None = None

    def faults(self) -> list[str]:
        """Return what is wrong with the sinks, in words."""
        return self.forwarder.faults() if self.forwarder else []

    def places(self) -> list[str]:
        """Return in words where values go."""
        told = []
        if self.forwarder:
            names = ", ".join(state.name for state in self.forwarder.states())
            told.append(f"run {self.forwarder.tags['run']} goes to {names}")
        if self.exporter:
            told.append(f"Prometheus finds values at http://{self.exporter.address}:{self.exporter.port}/metrics")
        return told


@contextmanager
def streaming(
    recorder: Recorder, *, sinks: bool | Sequence[str] = True, exporter: bool | tuple[str, int] = False
) -> Iterator[Streaming]:
    """Stream what a running recorder records until the block ends.

    Args:
        recorder: A running one.
        sinks: Whether to send to the sections ``[sinks.<name>]``; or to which of them, and to which URLs.
        exporter: Whether to answer Prometheus, as the section ``[exporter]`` says; or at which address and port, an
            empty address being that of the section.

    Raises:
        ConfigError: A section or URL cannot be used, no sink is configured, or the port is taken.
        UnavailableError: A sink refuses or does not answer, or a package is missing.
    """
    chosen, endpoint = forward_config(), exporter_config()
    address, port = (endpoint.address, endpoint.port) if isinstance(exporter, bool) else exporter
    with ExitStack() as stack:
        forwarder = served = None
        if exporter:
            live = stack.enter_context(Live(recorder, keep_s=10.0, total=chosen.total))
            served = serve(recorder, live, port, address or endpoint.address)
            stack.callback(served.close)
        if sinks:
            forwarder = stack.enter_context(_forwarder(recorder, chosen, sinks))
        yield Streaming(tuple(chosen.total), forwarder, served)


def _forwarder(recorder: Recorder, chosen: ForwardConfig, places: bool | Sequence[str]) -> Forwarder:
    sinks = open_all_configured() if isinstance(places, bool) else open_places(places)
    try:
        return Forwarder(recorder, sinks, tags=chosen.tags, interval_s=chosen.interval_s, total=chosen.total)
    except ConfigError:
        for sink in sinks.values():
            sink.close()
        raise
