"""Names to addresses within a time: the system's own call has no limit, and a name server that hangs holds it up.

A look-up runs in a thread that nobody waits for longer than he wants; while one hangs, whoever asks for the same name
again waits for that one, so that threads do not pile up.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from typing import Final

_guard: Final = threading.Lock()
_pending: Final[dict[str, _LookUp]] = {}


class _LookUp(threading.Thread):
    """One question to the system."""

    def __init__(self, host: str) -> None:
        super().__init__(name=f"look-up of {host}", daemon=True)
        self._host = host
        self.addresses: list[str] = []
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            found = socket.getaddrinfo(self._host, None, type=socket.SOCK_STREAM)
            self.addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        except OSError as error:
            self.error = error
        except UnicodeError as error:  # a name that cannot be one
            self.error = OSError(str(error))
        finally:
            with _guard:
                _pending.pop(self._host, None)


def resolve(host: str, timeout_s: float) -> list[str]:
    """Return the addresses of a host, the best one first; an address is its own.

    Args:
        host: Its name or address.
        timeout_s: How long to wait.

    Raises:
        TimeoutError: Nobody tells in time.
        OSError: There is no such name.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [host]
    with _guard:
        asked = _pending.get(host)
        if asked is None:
            asked = _pending[host] = _LookUp(host)
            asked.start()
    asked.join(timeout_s)
    if asked.is_alive():
        raise TimeoutError(f"no name server tells the address of {host} within {timeout_s:.2g} s")
    if asked.error is not None:
        raise asked.error
    return asked.addresses
