"""Connects to the addresses of a host, one after another, within one time limit."""

import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

Address = TypeVar("Address")


def sharing(addresses: Sequence[Address], seconds: float) -> Iterator[tuple[Address, float]]:
    """Each address, with the time to connect to it; all together take no longer than `seconds`."""
    until = time.monotonic() + seconds
    for number, address in enumerate(addresses, start=1):
        left = max(0.01, until - time.monotonic())
        # An address that doesn't answer must leave time for the next ones.
        yield address, left / 2 if number < len(addresses) else left


def connect_directly(candidate: socket.socket, address: Any, seconds: float) -> socket.socket:
    """The socket, connected to the address, or closed; raises OSError."""
    try:
        candidate.settimeout(seconds)
        candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        candidate.connect(address)
    except OSError:
        candidate.close()
        raise
    return candidate
