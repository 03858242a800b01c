"""Power of a whole server as its management controller (BMC) tells it over IPMI.

Source: Intel, DCMI specification 1.5, section 6.6.1 (Get Power Reading); ipmitool(1), command ``dcmi power reading``.
"""

from __future__ import annotations

import math
import os
import re
from typing import ClassVar, Final

import msgspec

from wattwerk.config import to_struct
from wattwerk.errors import ConfigError, MeasurementError, UnavailableError, WattwerkError
from wattwerk.meters.base import Channel, Meter
from wattwerk.meters.command import Answer, ask
from wattwerk.meters.sections import options_of
from wattwerk.meters.sensor import check_above_zero, parse, within
from wattwerk.records import Scope
from wattwerk.registry import Probe

_POWER: Final = re.compile(r"Instantaneous power reading:\s*(-?\d+)\s*Watts", re.IGNORECASE)
_PERIOD: Final = re.compile(r"Sampling period:\s*(\d+)\s*(Milliseconds|Seconds)", re.IGNORECASE)
_STATE: Final = re.compile(r"Power reading state is:\s*(\w+)", re.IGNORECASE)
_INSTALL: Final = "`sudo apt-get install ipmitool`, or give its path as meters.ipmi.command"
_PROBE_S: Final = 0.7
_LONGEST_PERIOD_S: Final = 10.0

#: What ipmitool says -> what to do.
_REMEDIES: Final = {
    "dcmi not supported|invalid command|command not supported|not supported": (
        "this BMC has no DCMI power reading: update its firmware, or use a wall meter"
    ),
    "could not open device": "load the driver (`sudo modprobe ipmi_devintf ipmi_si`) and run as root",
    "permission denied|insufficient privilege": "run as root, or give this user access to /dev/ipmi0",
    "unable to establish|password|authentication|rakp": (
        "check host and user, the password in IPMI_PASSWORD, and that the BMC allows IPMI over LAN"
    ),
}


class IpmiConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the IPMI meter.

    Attributes:
        host: The BMC's address; empty for that of this machine.
        user: User of the BMC at ``host``.
        password_env: Name of the environment variable that holds the password.
        command: The command's first words; ``sudo -n ipmitool`` where only root may use the local BMC.
        prefix: First word of the channel's name.
        timeout_s: How long a reading may take.
        interval_s: How far apart reads make sense; most BMCs renew their value each second.
        latency_s: How far values lag behind; None for the sampling period that the BMC states.
        max_power_w: A power beyond it is a fault.
    """

    host: str = ""
    user: str = ""
    password_env: str = "IPMI_PASSWORD"
    command: tuple[str, ...] = ("ipmitool",)
    prefix: str = "ipmi"
    timeout_s: float = 5.0
    interval_s: float = 1.0
    latency_s: float | None = None
    max_power_w: float = 20000.0


def parse_power(text: str, max_power_w: float = math.inf) -> float:
    """Return the watts of an answer; NaN where it has none, or one that cannot be.

    A node that runs takes more than 0 W: a BMC that says so has no sensor behind its answer.
    """
    power, state = _POWER.search(text), _STATE.search(text)
    if power is None or (state is not None and state[1].lower() != "activated"):
        return math.nan
    return within(parse(power[1]), 1.0, max_power_w)


def parse_period_s(text: str) -> float:
    """Return the sampling period that an answer states, in seconds; NaN where it states none that is likely."""
    if not (period := _PERIOD.search(text)):
        return math.nan
    return within(parse(period[1]) * (1e-3 if period[2].lower() == "milliseconds" else 1.0), 0.0, _LONGEST_PERIOD_S)


def _remedy(text: str) -> str:
    lower = text.lower()
    found = (remedy for pattern, remedy in _REMEDIES.items() if re.search(pattern, lower))
    return next(found, "run `ipmitool dcmi power reading` by hand")


def _command(config: IpmiConfig) -> tuple[list[str], dict[str, str]]:
    """Return the whole command, and the environment that carries the password.

    Raises:
        ConfigError: A remote BMC without user or password.
    """
    if not config.host:
        return [*config.command, "dcmi", "power", "reading"] if config.command else [], {}
    if not config.user:
        raise ConfigError("meters.ipmi: user is empty", "give the user of the BMC")
    password = os.environ.get(config.password_env)
    if not password:
        raise ConfigError(
            f"meters.ipmi.password_env: the environment variable {config.password_env} is not set",
            f"export {config.password_env}=…",
        )
    remote = ["-I", "lanplus", "-H", config.host, "-U", config.user, "-E"]
    words = [*config.command, *remote, "dcmi", "power", "reading"] if config.command else []
    return words, {"IPMI_PASSWORD": password}  # the name that ipmitool's option -E reads


class IpmiMeter(Meter):
    """Read the power of a server from its BMC.

    Channel: ``ipmi_power_w``, what enters the power supplies or leaves them, whichever the BMC's maker chose. Whole
    watts, renewed about once a second: worth something over minutes.

    Attributes:
        interval_s: How far apart reads make sense.
        latency_s: How far values lag behind.
    """

    name: ClassVar[str] = "ipmi"
    config: ClassVar[type[msgspec.Struct]] = IpmiConfig
    interval_s = 1.0

    @classmethod
    def probe(cls) -> Probe:
        """Tell whether the BMC answers in time: that of ``[meters.ipmi]``, else that of this machine."""
        try:
            config = to_struct(IpmiConfig, options_of("ipmi"), "meters.ipmi")
            short = msgspec.structs.replace(config, timeout_s=min(_PROBE_S, config.timeout_s))
            meter = cls(short)
        except WattwerkError as error:
            return Probe(False, error.message, error.remedy)
        return Probe(True, f"{config.host or 'local BMC'}: {meter.channels[0].name}")

    def __init__(self, config: msgspec.Struct) -> None:
        """Open the meter.

        Raises:
            ConfigError: An option is not possible.
            UnavailableError: There is no ipmitool or no BMC, or it tells no power.
        """
        assert isinstance(config, IpmiConfig)
        numbers = {key: getattr(config, key) for key in ("timeout_s", "interval_s", "max_power_w")}
        check_above_zero("meters.ipmi", **numbers)
        self._config = config
        self._words, self._environment = _command(config)
        try:
            answer = self._ask()
        except MeasurementError as error:
            raise UnavailableError(error.message, error.remedy) from error
        if math.isnan(parse_power(answer, config.max_power_w)):
            at = f" at {config.host}" if config.host else ""
            told = answer.summary() if _POWER.search(answer) is None else _told(answer)
            raise UnavailableError(f"meters.ipmi: the BMC{at} tells no power ({told})", _remedy(answer))
        period_s = parse_period_s(answer)
        stated = config.interval_s if math.isnan(period_s) else period_s
        self.interval_s = config.interval_s
        self.latency_s = stated if config.latency_s is None else config.latency_s

    def _ask(self) -> Answer:
        return ask(self._words, self._config.timeout_s, "meters.ipmi", _INSTALL, self._environment)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channel of ``read``."""
        return (Channel(name=f"{self._config.prefix}_power_w", form="gauge", scope=Scope.NODE),)

    def read(self) -> list[float]:
        """Return the power in watts; NaN where the answer holds none that can be.

        Raises:
            MeasurementError: The BMC does not answer, or refuses.
        """
        answer = self._ask()
        if answer.status and _POWER.search(answer) is None:
            raise MeasurementError(f"meters.ipmi: {answer.summary()}", _remedy(answer))
        return [parse_power(answer, self._config.max_power_w)]


def _told(answer: str) -> str:
    """Return power and state as one line of a message."""
    lines = [match[0] for pattern in (_POWER, _STATE) if (match := pattern.search(answer))]
    return "; ".join(" ".join(line.split()) for line in lines)
