"""Values that Prometheus collected: a PromQL expression for each channel, and the age of what it finds.

Source: Prometheus documentation, HTTP API (instant queries), Querying basics (staleness), Functions (timestamp).
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from wattwerk.meters.http import HttpConfig, dig
from wattwerk.meters.http_client import HttpError
from wattwerk.meters.mapped import number
from wattwerk.meters.query import FoundPoint, QueryChannel, QueryMeter


class PrometheusChannel(QueryChannel, frozen=True, kw_only=True):
    """The number that a PromQL expression gives.

    Attributes:
        time_query: An expression that gives the value's time in seconds since 1970; by default ``timestamp(query)``,
            which is the time of the scrape where the query is a bare selector, and else the time of asking.
    """

    time_query: str = ""


class PrometheusQueryConfig(HttpConfig, frozen=True, kw_only=True):
    """Options of the Prometheus meter, beside those of ``HttpConfig``.

    Attributes:
        channels: What to read.
        token: A bearer token; empty for none.
        token_env: The environment variable that holds the token, instead of it.
    """

    channels: list[PrometheusChannel]
    token: str = ""
    token_env: str = ""


class PrometheusQueryMeter(QueryMeter):
    """Ask Prometheus, or what speaks its API, for values.

    Channels: those of the configuration. Prometheus gives a value for five minutes after the scrape; here it is NaN
    once its scrape is older than ``stale_s``. A counter's value is given once, and its energy counts from opening. The
    age within ``stale_s`` is not taken into account: set ``latency_s`` to half of the scrape interval.
    """

    name: ClassVar[str] = "prometheus-query"
    config: ClassVar[type[msgspec.Struct]] = PrometheusQueryConfig

    def _find(self, spec: PrometheusChannel) -> FoundPoint:
        raw, asked_s = self._ask(spec.query)
        # at the same moment: a scrape between the two questions must not make an old value a new one
        time_s, _ = self._ask(spec.time_query or f"timestamp({spec.query})", time=str(asked_s))
        return FoundPoint(raw, number(time_s))

    def _ask(self, query: str, **moment: str) -> tuple[object, object]:
        """Return the number that an expression gives, and the moment for which it does.

        Raises:
            HttpError: The server does not answer, or refuses the expression.
            ValueError: It gives nothing, or several series.
        """
        told = self._http.get("/api/v1/query", query=query, **moment)
        kind, result = dig(told, "data", "resultType"), dig(told, "data", "result")
        if dig(told, "status") != "success" or not isinstance(result, list):
            raise HttpError(f"{self._http.url} answers as no Prometheus does", "check url")
        if kind == "scalar":
            return dig(result, 1), dig(result, 0)
        if kind != "vector" or len(result) != 1:
            found = f"{len(result)} series" if kind == "vector" else f"a {kind}"
            raise ValueError(f"the query {query!r} finds {found}, not one")
        return dig(result, 0, "value", 1), dig(result, 0, "value", 0)
