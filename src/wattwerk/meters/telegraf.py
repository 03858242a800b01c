"""Configurations for Telegraf, which stands between sensors and data base and writes in large batches."""

from __future__ import annotations

from importlib import resources
from typing import Final

from wattwerk.errors import ConfigError
from wattwerk.registry import suggestion

#: name -> what it is for
TELEGRAF_CONFIGS: Final = {
    "relay": "passes on what wattwerk sends, from many machines",
    "sensors": "collects what micro-controllers send over MQTT and serial lines",
}


def telegraf_config(name: str = "relay") -> str:
    """Return a configuration file for Telegraf, ready to be written to a ``.conf``.

    Addresses and passwords are environment variables of Telegraf's process, as its first lines say.

    Args:
        name: ``relay`` or ``sensors``.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in TELEGRAF_CONFIGS:
        raise ConfigError(f"no Telegraf configuration is called {name!r}", suggestion(name, TELEGRAF_CONFIGS))
    return resources.files("wattwerk.meters").joinpath(f"data/telegraf/{name}.conf").read_text(encoding="utf-8")
