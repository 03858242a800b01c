"""Where a recording goes, as ``config.toml`` says it: sections ``[sinks.<name>]``, ``[forward]`` and ``[exporter]``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit, urlunsplit

import msgspec

from wattwerk.config import home, to_struct, user_section
from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.meters.mapped import secret
from wattwerk.meters.sinks import Sink, open_sink
from wattwerk.registry import suggestion

SPOOL_BYTES: Final = 64 << 20

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class SinkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place that takes lines.

    Attributes:
        url: ``http://HOST:8086`` or ``https://…``, ``udp://HOST:8089``, ``file:PATH``.
        database: Of InfluxDB 1.x, or of anything that takes its requests.
        retention_policy: Of that database; empty for its default.
        org: Of InfluxDB 2.x, with ``bucket``.
        bucket: Of InfluxDB 2.x.
        user: For basic authentication.
        password: Likewise.
        password_env: The environment variable that holds the password, instead of it.
        token: For token authentication.
        token_env: The environment variable that holds the token, instead of it.
        spool_bytes: How many bytes of lines may wait on disk while the server is away; 0 for none on disk, and up to
            16 MiB in memory.
    """

    url: str
    database: str = ""
    retention_policy: str = ""
    org: str = ""
    bucket: str = ""
    user: str = ""
    password: str = ""
    password_env: str = ""
    token: str = ""
    token_env: str = ""
    spool_bytes: int = SPOOL_BYTES


class ForwardConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is sent to the sinks.

    Attributes:
        interval_s: How often.
        tags: Added to every line; ``host`` is the machine's name and ``run`` a new id unless they are given.
        total: The channels that make up the system's total; by default those that lie inside no other.
    """

    interval_s: float = 1.0
    tags: dict[str, str] = {}
    total: list[str] = []


class ExporterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Prometheus finds the values.

    Attributes:
        port: To listen at.
        address: To listen at; this machine alone by default, ``0.0.0.0`` for all of its networks.
    """

    port: int = 9877
    address: str = "127.0.0.1"


def sink_configs() -> dict[str, SinkConfig]:
    """Return the sections ``[sinks.<name>]`` of the user's ``config.toml``: name -> what it says.

    Raises:
        ConfigError: One of them cannot be used.
    """
    found = {}
    for name, section in user_section("sinks").items():
        where = f"{home() / 'config.toml'}: [sinks.{name}]"
        if not isinstance(section, dict):
            raise ConfigError(f"{where} is not a table", "write it as a TOML table")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{where}: this name cannot be used", "use letters, digits, '.', '_' and '-'")
        found[name] = to_struct(SinkConfig, section, where)
        address_of(found[name], where)
    return found


def forward_config() -> ForwardConfig:
    """Return the section ``[forward]`` of the user's ``config.toml``; raises ConfigError if it cannot be used."""
    return to_struct(ForwardConfig, user_section("forward"), f"{home() / 'config.toml'}: [forward]")


def exporter_config() -> ExporterConfig:
    """Return the section ``[exporter]`` of the user's ``config.toml``; raises ConfigError if it cannot be used."""
    return to_struct(ExporterConfig, user_section("exporter"), f"{home() / 'config.toml'}: [exporter]")


def address_of(config: SinkConfig, where: str) -> str:
    """Return the URL that ``open_sink`` takes.

    Raises:
        ConfigError: The keys do not fit together.
    """
    parts = urlsplit(config.url)
    if config.spool_bytes < 0:
        raise ConfigError(f"{where}: spool_bytes is {config.spool_bytes}", "use 0 or more")
    if parts.scheme not in ("http", "https"):
        if config.database or config.bucket:
            raise ConfigError(f"{where}: {config.url} takes no database", "remove database, org and bucket")
        return config.url
    if bool(config.database) == bool(config.bucket):
        raise ConfigError(f"{where}: which database?", "give database (InfluxDB 1.x), or org and bucket (2.x)")
    if config.bucket and not config.org:
        raise ConfigError(f"{where}: bucket needs org", "add org")
    base = config.url.rstrip("/")
    if config.bucket:
        return f"{base}/api/v2/write?{urlencode({'org': config.org, 'bucket': config.bucket})}"
    policy = {"rp": config.retention_policy} if config.retention_policy else {}
    return f"{base}/write?{urlencode({'db': config.database, **policy})}"


def open_configured(name: str, config: SinkConfig) -> Sink:
    """Open a configured sink; lines that waited when it was used last are sent first.

    A server that does not answer is no error where lines may wait on disk; one that refuses database or credentials is.

    Raises:
        ConfigError: The configuration cannot be used.
        UnavailableError: The server refuses, does not answer, or httpx is not installed.
    """
    where = f"sinks.{name}"
    url = address_of(config, where)
    options: dict[str, Any] = {}
    if config.spool_bytes and url != config.url:
        options = {"spool": spool_path(name), "held_bytes": config.spool_bytes, "patient": True}
    try:
        with _httpx_needed(where):
            return open_sink(
                url,
                user=config.user,
                password=secret(config.password, config.password_env, f"{where}: password"),
                token=secret(config.token, config.token_env, f"{where}: token"),
                **options,
            )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", error.remedy) from error


def open_all_configured() -> dict[str, Sink]:
    """Open every sink of ``config.toml``; those that were opened are closed again where one cannot be.

    Raises:
        ConfigError: As for ``open_configured``, or there is none.
        UnavailableError: As for ``open_configured``.
    """
    configs = sink_configs()
    if not configs:
        raise ConfigError(
            "no sink is configured", f"add a section [sinks.influx] with url and database to {home() / 'config.toml'}"
        )
    return _open_each({name: partial(open_configured, name, config) for name, config in configs.items()})


def open_places(places: Sequence[str]) -> dict[str, Sink]:
    """Open sinks that are named: by their section ``[sinks.<name>]``, or by a URL as ``open_sink`` takes it.

    Raises:
        ConfigError: There is no such section, or it or the URL cannot be used.
        UnavailableError: As for ``open_configured``.
    """
    configs = sink_configs()
    makers: dict[str, Callable[[], Sink]] = {}
    for place in places:
        if ":" in place:
            name = _without_secrets(place)  # may stand for two data bases of one server
            makers[f"{name} ({len(makers) + 1})" if name in makers else name] = partial(_open_url, place)
        elif place in configs:
            makers[place] = partial(open_configured, place, configs[place])
        else:
            remedy = suggestion(place, configs) if configs else "give a URL, such as http://HOST:8086/write?db=NAME"
            raise ConfigError(f"no section [sinks.{place}] in {home() / 'config.toml'}", remedy)
    return _open_each(makers)


def _open_url(url: str) -> Sink:
    with _httpx_needed(f"sending to {_without_secrets(url)}"):
        return open_sink(url)


def _without_secrets(url: str) -> str:
    """Return a URL to be shown: without login and query."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _open_each(makers: Mapping[str, Callable[[], Sink]]) -> dict[str, Sink]:
    opened: dict[str, Sink] = {}
    try:
        for name, make in makers.items():
            opened[name] = make()
    except (ConfigError, UnavailableError):
        for sink in opened.values():
            sink.close()
        raise
    return opened


@contextmanager
def _httpx_needed(what: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UnavailableError(f"{what} needs httpx", '`pip install "wattwerk[meters]"`') from error


def spool_path(name: str) -> Path:
    """Return the file where lines of a sink wait."""
    return home() / "spool" / f"{name}.db"
