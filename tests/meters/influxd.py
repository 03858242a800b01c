"""A real InfluxDB 1.x on loopback, for the tests that write to one or read from one."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

INFLUXD = shutil.which("influxd")


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """Return a port of loopback that nobody uses now."""
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Influxd:
    """A server with a folder of its own.

    Args:
        folder: For its files.
        auth: Whether it asks for credentials; the administrator is ``admin`` with the password ``secret``.
    """

    def __init__(self, folder: Path, *, auth: bool = False) -> None:
        self.port, self.udp_port, backup = free_port(), free_port(socket.SOCK_DGRAM), free_port()
        self._config = folder / "influxdb.conf"
        self._config.write_text(
            f'bind-address = "127.0.0.1:{backup}"\nreporting-disabled = true\n'
            f'[meta]\ndir = "{folder}/meta"\n[data]\ndir = "{folder}/data"\nwal-dir = "{folder}/wal"\n'
            f'[http]\nbind-address = "127.0.0.1:{self.port}"\nauth-enabled = {str(auth).lower()}\n'
            f'[[udp]]\nenabled = true\nbind-address = "127.0.0.1:{self.udp_port}"\ndatabase = "over_udp"\n'
            'batch-timeout = "100ms"\n[monitor]\nstore-enabled = false\n'
        )
        self._log = folder / "influxd.log"
        self.start()
        if auth:
            self.query("CREATE USER admin WITH PASSWORD 'secret' WITH ALL PRIVILEGES")

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert INFLUXD is not None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([INFLUXD, "run", "-config", str(self._config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.url}/ping", timeout=1).close()
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
                time.sleep(0.05)
            else:
                return
        raise TimeoutError(self._log.read_text())

    def __enter__(self) -> Influxd:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; its data stay."""
        self._process.terminate()
        self._process.wait(20)

    def query(self, text: str, database: str = "", **credentials: str) -> list[dict[str, Any]]:
        """Run InfluxQL and return its series."""
        asked = urllib.parse.urlencode({"q": text, "db": database, "epoch": "ns"} | credentials)
        request = urllib.request.Request(f"{self.url}/query?{asked}", method="POST")
        with urllib.request.urlopen(request, timeout=5) as answer:
            result: dict[str, Any] = json.load(answer)["results"][0]
        assert "error" not in result, result
        series: list[dict[str, Any]] = result.get("series", [])
        return series
