"""A running recorder's way out, as ``config.toml`` says it: to its sinks, and to Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from wattwerk.errors import ConfigError
from wattwerk.meters.exporter import Exporter, serve
from wattwerk.meters.forward import Forwarder
from wattwerk.meters.live import Live
from wattwerk.meters.recorder import Recorder
from wattwerk.meters.sink_config import ForwardConfig, exporter_config, forward_config, open_all_configured


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
def streaming(recorder: Recorder, *, sinks: bool = True, exporter: bool = False) -> Iterator[Streaming]:
    """Stream what a running recorder records until the block ends.

    Args:
        recorder: A running one.
        sinks: Whether to send to the sections ``[sinks.<name>]``.
        exporter: Whether to answer Prometheus, as the section ``[exporter]`` says.

    Raises:
        ConfigError: A section cannot be used, no sink is configured, or the port is taken.
        UnavailableError: A sink refuses or does not answer, or a package is missing.
    """
    chosen, endpoint = forward_config(), exporter_config()
    with ExitStack() as stack:
        forwarder = served = None
        if exporter:
            live = stack.enter_context(Live(recorder, keep_s=10.0, total=chosen.total))
            served = serve(recorder, live, endpoint.port, endpoint.address)
            stack.callback(served.close)
        if sinks:
            forwarder = stack.enter_context(_forwarder(recorder, chosen))
        yield Streaming(tuple(chosen.total), forwarder, served)


def _forwarder(recorder: Recorder, chosen: ForwardConfig) -> Forwarder:
    sinks = open_all_configured()
    try:
        return Forwarder(recorder, sinks, tags=chosen.tags, interval_s=chosen.interval_s, total=chosen.total)
    except ConfigError:
        for sink in sinks.values():
            sink.close()
        raise
