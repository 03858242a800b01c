"""Power and energy that devices publish over MQTT: smart plugs, meters on a gateway, home automation.

Source: OASIS, MQTT version 3.1.1; Eclipse Paho, paho-mqtt 2 client API. What a device publishes is its own affair: see
docs/meters-bus.md for examples.
"""

from __future__ import annotations

import math
import re
import secrets
import ssl
import threading
import time
from typing import Any, ClassVar, Final

import msgspec

from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.meters.mapped import (
    MappedChannel,
    MappedMeter,
    Quantity,
    check_channels,
    check_peer,
    check_positive,
    load_library,
    secret,
)
from wattwerk.units import times

_STEP: Final = re.compile(r'\[(\d+)\]|\["([^"]+)"\]|(\.?)([^.\[\]"]+)')
_RECONNECT_S: Final = (1, 10)
_MOST_BYTES: Final = 1_000_000
_MOST_TOPIC_BYTES: Final = 65_540  # with its length, and the number of the message


class MqttChannel(MappedChannel, frozen=True, kw_only=True):
    """One number in the messages of one topic.

    Attributes:
        topic: The topic, without wildcards.
        path: Where in the JSON message the number is: ``ENERGY.Power``, ``meters[0].power``; a key with dots as
            ``["a.b"]``. Empty where the message is the bare number.
        stale_s: How long a value holds; NaN after that, in seconds.
        retained: Whether a retained message counts, although nobody knows how old it is.

    Raises:
        ConfigError: As for ``MappedChannel``; the topic has a wildcard, the path cannot be read, or stale_s is no time.
    """

    topic: str
    path: str = ""
    stale_s: float = 60.0
    retained: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.topic or "+" in self.topic or "#" in self.topic:
            raise ConfigError(
                f"channel {self.name}: topic {self.topic!r} is not one topic", "give it without + and # wildcards"
            )
        check_positive(self, f"channel {self.name}", "stale_s")
        parse_path(self.path)


class MqttConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the MQTT meter.

    Attributes:
        host: The broker's name or address.
        channels: What to read.
        port: The broker's port; by default 1883, with TLS 8883.
        user: The user's name; empty for none.
        password: The password; empty for none.
        password_env: The environment variable that holds the password, instead of it.
        tls: Whether to use TLS; the broker's certificate is checked.
        ca_file: Certificates to check the broker's with; empty for the system's.
        certificate_file: A certificate of the client, where the broker asks for one.
        key_file: The private key of that certificate.
        client_id: The client's name; by default ``wattwerk-`` and eight random digits.
        keepalive_s: How often broker and client make sure of each other, in seconds.
        timeout_s: What opening may take, in seconds; a read takes no time.
        interval_s: How far apart reads make sense, in seconds.
        latency_s: How far the published values lag behind, in seconds; the device's affair, so 0 unless known.
    """

    host: str
    channels: list[MqttChannel]
    port: int | None = None
    user: str = ""
    password: str = ""
    password_env: str = ""
    tls: bool = False
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    client_id: str = ""
    keepalive_s: int = 15
    timeout_s: float = 5.0
    interval_s: float = 0.2
    latency_s: float = 0.0


def parse_path(path: str) -> list[str | int]:
    """Split a JSON path into keys and indices.

    Raises:
        ConfigError: It cannot be read.
    """
    steps: list[str | int] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None or (match[4] and bool(match[3]) != (position > 0)):  # a dot between two, but not at first
            raise ConfigError(f"JSON path {path!r} at character {position + 1}", "write it like ENERGY.Power or a[0].b")
        index, quoted, _, key = match.groups()
        steps.append(int(index) if index else quoted or key)
        position = match.end()
    return steps


def pick(payload: bytes, steps: list[str | int]) -> object:
    """Return what stands at a path of a JSON message; a bare message as its text where the path is empty.

    Raises:
        ValueError: The message is no JSON, or has nothing there.
    """
    if len(payload) > _MOST_BYTES:
        raise ValueError(f"the message has {len(payload)} bytes")
    if not steps:
        return payload.decode("utf-8")
    try:
        found: Any = msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"the message is no JSON ({error})") from error
    for step in steps:
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"the message has no {step!r}") from error
    return found


class _TlsSocket(ssl.SSLSocket):
    """A socket that is closed where its handshake fails; paho-mqtt would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class _Held:
    """The newest value of one channel and until when it holds.

    A gauge's value holds until the next message. A counter's value was true when it arrived and is given once: given
    again, it would say that nothing was used since.
    """

    def __init__(self, spec: MqttChannel) -> None:
        self.spec = spec
        self.quantity = Quantity(spec)
        self._steps = parse_path(spec.path)
        self._newest = (math.nan, 0)
        self._told_ns = 0

    def take(self, payload: bytes, retained: bool) -> None:
        if retained and not self.spec.retained:
            return
        now_ns = time.perf_counter_ns()
        try:
            raw = pick(payload, self._steps)
        except ValueError as error:
            self._newest = self.quantity.fault(str(error)), now_ns
            return
        self._newest = self.quantity.value(raw, now_ns), now_ns  # one assignment: the reader sees both or neither

    def forget(self) -> None:
        self._newest = (math.nan, 0)

    def value(self, now_ns: int) -> float:
        value, since_ns = self._newest
        if self.quantity.channel.form == "counter" and since_ns == self._told_ns:
            return math.nan
        self._told_ns = since_ns
        return value if now_ns - since_ns <= self.spec.stale_s * 1e9 else math.nan


class MqttMeter(MappedMeter):
    """Listen to topics of an MQTT broker.

    Channels: those of the configuration. A gauge's value is that of the newest message until ``stale_s`` has passed;
    a counter's value is given by the first read after its message only. While the broker is gone, and until the first
    message after it came back, there is none. Messages carry no time: a value counts from its arrival.

    A read takes no time, and the time of a counter is known to that alone.
    """

    name: ClassVar[str] = "mqtt"
    config: ClassVar[type[msgspec.Struct]] = MqttConfig
    interval_s = 0.2

    def __init__(self, config: msgspec.Struct) -> None:
        """Connect to the broker and subscribe.

        Raises:
            ConfigError: The configuration cannot be used.
            UnavailableError: The broker does not answer, or refuses.
        """
        assert isinstance(config, MqttConfig)
        check_channels(config.channels, "meters.mqtt")
        check_peer(config, "meters.mqtt")
        check_positive(config, "meters.mqtt", "keepalive_s")
        self._paced(config)
        self.disconnects = 0
        self._held = [_Held(spec) for spec in config.channels]
        self._quantities = [held.quantity for held in self._held]
        self._address = f"{config.host}:{config.port or (8883 if config.tls else 1883)}"
        self._refusal = ""
        self._settled = threading.Event()
        self._connected = False
        self._client = self._make_client(config)
        try:
            self._connect(config)
        except BaseException:
            self.close()
            raise

    def _make_client(self, config: MqttConfig) -> Any:
        library = load_library("wattwerk.meters.mqtt_client", "MQTT")
        client_id = config.client_id or f"wattwerk-{secrets.token_hex(4)}"
        client = library.BoundedClient(client_id, _MOST_BYTES + _MOST_TOPIC_BYTES)
        password = secret(config.password, config.password_env, "meters.mqtt: password")
        if password and not config.user:
            raise ConfigError("meters.mqtt: a password without a user", "add user")
        if config.user:
            client.username_pw_set(config.user, password or None)
        if config.tls:
            self._secure(client, config)
        client.connect_timeout = config.timeout_s
        client.reconnect_delay_set(*_RECONNECT_S)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_subscribe, client.on_message = self._on_subscribe, self._on_message
        return client

    @staticmethod
    def _secure(client: Any, config: MqttConfig) -> None:
        try:
            context = ssl.create_default_context(cafile=config.ca_file or None)
            context.sslsocket_class = _TlsSocket
            if config.certificate_file:
                context.load_cert_chain(config.certificate_file, config.key_file or None)
            client.tls_set_context(context)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"meters.mqtt: the certificates cannot be used ({error})",
                "check ca_file, certificate_file and key_file: PEM files that this user may read",
            ) from error

    def _connect(self, config: MqttConfig) -> None:
        host, _, port = self._address.rpartition(":")
        try:
            self._client.connect(host, int(port), config.keepalive_s)
        except (OSError, ValueError) as error:
            raise self._unavailable(f"does not answer ({error})", "check host, port, tls, and that it runs") from error
        self._client.loop_start()
        if not self._settled.wait(config.timeout_s):
            raise self._unavailable(
                f"does not greet within {config.timeout_s:g} s", "check port and tls: is it an MQTT broker?"
            )
        if self._refusal:
            raise self._unavailable(
                f"refuses ({self._refusal})", "check user and password, and what the broker lets this user read"
            )

    def _unavailable(self, what: str, remedy: str) -> UnavailableError:
        return UnavailableError(f"MQTT: the broker at {self._address} {what}", remedy)

    # The following run in paho's thread.

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
            self._settled.set()
            return
        topics = dict.fromkeys(held.spec.topic for held in self._held)
        client.subscribe([(topic, 0) for topic in topics])

    def _on_subscribe(self, client: Any, userdata: Any, message: int, reasons: list[Any], properties: Any) -> None:
        failed = [reason for reason in reasons if reason.is_failure]
        self._refusal = f"subscription: {failed[0]}" if failed else ""
        self._connected = not failed
        self._settled.set()

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.disconnects += self._connected
        self._connected = False
        for held in self._held:  # what is published meanwhile never arrives: the last value holds no longer
            held.forget()

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        for held in self._held:
            if held.spec.topic == message.topic:
                held.take(message.payload, message.retain)

    def read(self) -> list[float]:
        """Return the newest value of each channel in SI units, at once; NaN where it is stale or there is none."""
        now_ns = time.perf_counter_ns()
        return [held.value(now_ns) for held in self._held]

    def faults(self) -> list[str]:
        """Return what went wrong so far, in words: lost connections, messages that could not be used."""
        lost = [f"the connection to {self._address} was lost {times(self.disconnects)}"] if self.disconnects else []
        refused = [f"the broker refuses ({self._refusal})"] if self._refusal else []
        size = self._client.refused_bytes
        large = [f"the broker sends a message of {size} bytes, which is too much: see the topics"] if size else []
        return lost + refused + large + super().faults()

    def close(self) -> None:
        """Leave the broker."""
        self._connected = False  # a wanted end is no lost connection
        self._client.disconnect()
        self._client.loop_stop()
        if left := self._client.socket():  # of a connection that was being made anew
            left.close()
        # paho-mqtt closes the sockets of its own loop when it is deleted: nothing may hold it in a circle until then
        for event in ("on_connect", "on_disconnect", "on_subscribe", "on_message"):
            setattr(self._client, event, None)
