from __future__ import annotations

import math
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx")

from tests.meters.http_device import Device, query_of, seconds
from tests.meters.influxd import free_port

from wattwerk.config import to_struct
from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.prometheus_query import PrometheusQueryConfig, PrometheusQueryMeter
from wattwerk.records import Scope

PROMETHEUS = shutil.which("prometheus")
POWER = {"name": "rack_power_w", "query": 'rack_watts{side="left"}'}
ENERGY = {"name": "rack_energy_j", "query": "rack_joules_total"}


class Prometheus:
    """A real Prometheus that scrapes a page which a test writes.

    Attributes:
        page: The device that serves the page.
        values: Series -> value.
    """

    def __init__(self, folder: Path) -> None:
        self.values = {'rack_watts{side="left"}': 400.0, 'rack_watts{side="right"}': 10.0, "rack_joules_total": 1000.0}
        self.page = Device({"/metrics": lambda request: (200, {"Content-Type": "text/plain"}, self._text())})
        target = self.page.url.removeprefix("http://")
        config = folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
            f"scrape_configs: [{{job_name: rack, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        self.url = f"http://127.0.0.1:{free_port()}"
        arguments = [f"--config.file={config}", f"--web.listen-address={self.url.removeprefix('http://')}"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            [str(PROMETHEUS), *arguments, f"--storage.tsdb.path={folder}/data"], stdout=quiet, stderr=quiet
        )
        wait_for(self._has_scraped)

    def _text(self) -> bytes:
        return "".join(f"{series} {value}\n" for series, value in self.values.items()).encode()

    def _has_scraped(self) -> bool:
        assert self._process.poll() is None, "prometheus ended"
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?query=rack_joules_total", timeout=1) as answer:
                return b"rack_joules_total" in answer.read()
        except OSError:
            return False

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)
        self.page.__exit__()


def wait_for(done: Callable[[], bool]) -> None:
    """Wait until something is true, for ten seconds at most."""
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Start a server that has scraped once."""
    if PROMETHEUS is None:
        pytest.skip("needs prometheus (Debian: apt-get install prometheus)")
    found = Prometheus(tmp_path_factory.mktemp("prometheus"))
    yield found
    found.stop()


def opened(url: str, *channels: dict[str, Any], **options: Any) -> PrometheusQueryMeter:
    """Return a meter of these channels."""
    return PrometheusQueryMeter(
        to_struct(PrometheusQueryConfig, {"url": url, "channels": list(channels)} | options, "meters.prometheus-query")
    )


def vector(*values: str, time_s: float | None = None) -> dict[str, Any]:
    """Return an answer, written from the documentation: Prometheus, HTTP API, instant vectors."""
    series = [{"metric": {}, "value": [time_s or time.time(), value]} for value in values]
    return {"status": "success", "data": {"resultType": "vector", "result": series}}


def test_power_and_energy(server: Prometheus) -> None:
    """Of a real server a gauge comes in watts; a counter in joules since opening, each scrape of it once."""
    meter = opened(server.url, POWER | {"factor": 2}, ENERGY | {"scope": "node"})
    assert meter.read() == [800, 0]
    server.values["rack_joules_total"] += 50
    seen: list[float] = []

    def grown() -> bool:
        seen.append(meter.read()[1])
        return seen[-1] == 50

    wait_for(grown)
    assert {value for value in seen if not math.isnan(value)} <= {0, 50}
    assert [channel.scope for channel in meter.channels] == [Scope.WALL, Scope.NODE]
    meter.close()


def test_expressions_and_scalars(server: Prometheus) -> None:
    """An expression over several series, and one that gives a scalar, are read like a series."""
    meter = opened(
        server.url,
        {"name": "racks_power_w", "query": "sum(rack_watts)"},
        {"name": "fixed_power_w", "query": "vector(42)"},
        {"name": "bare_power_w", "query": "scalar(vector(7))", "time_query": "time()"},
    )
    assert meter.read() == [410, 42, 7]
    meter.close()


def test_value_is_stale_before_the_server_says_so(server: Prometheus) -> None:
    """A series whose scrapes take long is NaN once its scrape is older than stale_s."""
    meter = opened(server.url, POWER | {"stale_s": 0.05, "time_query": 'timestamp(rack_watts{side="left"}) - 1'})
    assert math.isnan(meter.read()[0])
    assert "s old" in meter.faults()[0]
    meter.close()
    meter = opened(server.url, POWER | {"stale_s": 5})
    assert meter.read() == [400]
    meter.close()


def test_negative_power_and_nan(server: Prometheus) -> None:
    """A negative power is NaN unless minimum allows it, and a NaN or infinity of the server's is NaN."""
    channels = [
        {"name": "a_power_w", "query": "vector(-5)"},
        {"name": "b_power_w", "query": "vector(-5)", "minimum": -10},
        {"name": "c_power_w", "query": "vector(NaN)"},
        {"name": "d_power_w", "query": "vector(Inf)"},
    ]
    meter = opened(server.url, *channels)
    found = meter.read()
    assert [math.isnan(value) for value in found] == [True, False, True, True]
    assert found[1] == -5
    meter.close()


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("no_such_series", "finds 0 series"),
        ("rack_watts", "finds 2 series"),
        ("rack_watts[1m]", "finds a matrix"),
        ("sum(", "answers 400.*parse error"),
    ],
)
def test_unusable_query_is_unavailable(server: Prometheus, query: str, text: str) -> None:
    """A query that finds nothing, several series or a range, or cannot be read makes the meter unavailable."""
    with pytest.raises(UnavailableError, match=text):
        opened(server.url, POWER | {"query": query})


def test_counter_goes_on_across_a_restart() -> None:
    """A counter that begins at 0 again costs one scrape; energy goes on from where it was."""
    with Device({}) as device:
        state = {"joules": 1000.0, "time_s": time.time() - 10}

        def answer(request: Any) -> Any:
            asks_time = query_of(request)["query"].startswith("timestamp")
            return vector(str(state["time_s"] if asks_time else state["joules"]))

        device.replies["/api/v1/query"] = answer
        meter = opened(device.url, ENERGY)
        found = []
        for joules in (1000.0, 1100.0, 3.0, 5.0, 6.0):
            state.update(joules=joules, time_s=state["time_s"] + 1)
            found += meter.read()
        assert found[:2] == [0, 100]
        assert math.isnan(found[2])
        assert found[3:] == [105, 106]
        assert all(math.isnan(value) for value in meter.read())  # the same scrape again
        meter.close()


def test_both_questions_are_about_one_moment() -> None:
    """The time of a value is asked for the moment of the value, so that a scrape between the two changes nothing."""
    with Device({"/api/v1/query": vector("400", time_s=1700000000.25)}) as device:
        opened(device.url, POWER).close()
        assert query_of(type("Request", (), {"path": device.requests[-1][1]}))["time"] == "1700000000.25"


@pytest.mark.parametrize(
    ("options", "header"),
    [({"token": "to-ken"}, "Bearer to-ken"), ({"user": "me", "password": "pass"}, "Basic bWU6cGFzcw==")],
)
def test_credentials(options: dict[str, str], header: str) -> None:
    """A token goes as bearer, a password as basic authentication; a refusal tells neither."""
    with Device({"/api/v1/query": vector("1")}) as device:
        opened(device.url, POWER, **options).close()
        assert device.requests[-1][2]["Authorization"] == header
        device.replies["/api/v1/query"] = 401
        with pytest.raises(UnavailableError, match="answers 401") as error:
            opened(device.url, POWER, **options)
        assert "to-ken" not in str(error.value)


@pytest.mark.parametrize(
    ("reply", "text"), [(404, "answers 404"), (b"<html>", "answers no JSON"), ({"a": 1}, "as no Prometheus does")]
)
def test_something_else(reply: Any, text: str) -> None:
    """What is no Prometheus is unavailable at opening, and fails to be read when it turns into that."""
    with Device({"/api/v1/query": vector("1")}) as device:
        meter = opened(device.url, POWER)
        device.replies["/api/v1/query"] = reply
        with pytest.raises(MeasurementError, match=text):
            meter.read()
        meter.close()
        with pytest.raises(UnavailableError, match=text):
            opened(device.url, POWER)


def test_late_answer_is_bounded() -> None:
    """A server that answers too late costs no more than timeout_s."""
    with Device({"/api/v1/query": vector("1")}) as device:
        meter = opened(device.url, POWER, timeout_s=0.3)
        device.delay_s = 30
        assert seconds(meter.read) < 10
        meter.close()


def test_channels_are_needed() -> None:
    """Without channels, or with a name without unit, the configuration is refused."""
    with pytest.raises(ConfigError, match="no channels"):
        opened("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="no known unit"):
        opened("http://127.0.0.1:1", POWER | {"name": "rack"})
