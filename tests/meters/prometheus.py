"""A real Prometheus on loopback that scrapes one endpoint twice a second."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.meters.influxd import free_port

PROMETHEUS = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None, reason="needs prometheus (Debian: apt-get install prometheus)"
)


class Scraper:
    """A server with a folder of its own.

    Args:
        folder: Where its files go.
        target_port: Port of the endpoint on loopback.
    """

    def __init__(self, folder: Path, target_port: int) -> None:
        self._port = free_port()
        self._log = folder / "log"
        (folder / "p.yml").write_text(
            "scrape_configs:\n- job_name: wattwerk\n  scrape_interval: 500ms\n  scrape_timeout: 400ms\n"
            f"  static_configs:\n  - targets: ['127.0.0.1:{target_port}']\n"
        )
        paths = [f"--config.file={folder}/p.yml", f"--storage.tsdb.path={folder}/data"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(PROMETHEUS), *paths, f"--web.listen-address=127.0.0.1:{self._port}"],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Scraper:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Return what the server answers to an instant query."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/query?{query}", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def wait_for(self, expression: str, timeout_s: float = 20.0) -> None:
        """Wait until a query has an answer that is not empty."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            time.sleep(0.3)
            try:
                if self.ask(expression):
                    return
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
        raise AssertionError(f"nothing answered to {expression} within {timeout_s:g} s")
