from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.meters.influxd import Influxd


@pytest.fixture(scope="module")
def influx_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    """A running InfluxDB with a database."""
    with Influxd(tmp_path_factory.mktemp("influxd")) as found:
        for name in ("power", "over_udp"):
            found.query(f"CREATE DATABASE {name}")
        yield found
