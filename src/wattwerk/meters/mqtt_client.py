"""The client of the MQTT meter: paho's, with bounds for what a packet takes and for how long a name is looked up.

MQTT lets a packet have 256 MB, and version 3.1.1 has no way to tell a broker that less is wanted.

Source: OASIS, MQTT version 3.1.1, section 2.2.3 (remaining length).
"""

from __future__ import annotations

import socket
import time
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from wattwerk.meters.resolve import resolve


class BoundedClient(paho.Client):
    """A client that drops the connection rather than take in a packet that is too large.

    Args:
        client_id: The client's name.
        most_bytes: How large a packet may be.

    Attributes:
        refused_bytes: Size of the last packet that was too large; 0 if there was none.
    """

    def __init__(self, client_id: str, most_bytes: int) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id=client_id)
        self._most_bytes = most_bytes
        self.refused_bytes = 0

    # paho has no hook for either of the following; tests/meters/test_mqtt.py tells if it calls them no longer

    def _sock_recv(self, bufsize: int) -> bytes:
        """Receive; what a packet still needs is asked for at once, whatever its size."""
        size: int = self._in_packet["remaining_length"]
        if self._in_packet["have_remaining"] and size > self._most_bytes:
            self.refused_bytes = size
            raise ConnectionError(f"a packet of {size} bytes")
        return super()._sock_recv(bufsize)

    def _create_socket_connection(self) -> Any:
        """Connect within the time that connecting may take, the look-up of the name included."""
        end_s = time.monotonic() + self._connect_timeout
        addresses = resolve(self._host, self._connect_timeout)
        for place, address in enumerate(addresses):
            left_s = (end_s - time.monotonic()) / (len(addresses) - place)
            try:
                return socket.create_connection((address, self._port), max(left_s, 0.01))
            except OSError:
                if place == len(addresses) - 1:
                    raise
        raise OSError(f"{self._host} has no address")
