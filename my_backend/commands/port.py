"""The port that a server listens on."""

import socket

from my_backend.errors import BackendError
from my_backend.settings import Settings
from safe_http.redaction import said


def listen(settings: Settings) -> socket.socket:
    """Opens HOST and PORT; raises BackendError. Werkzeug and uWSGI themselves would only print a line and exit."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    both = settings.host == "::" and socket.has_dualstack_ipv6()  # as with uWSGI, this includes IPv4
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=128, dualstack_ipv6=both)
    except (OSError, OverflowError) as error:
        why = str(getattr(error, "strerror", None) or said(error)).partition(" (")[0]
        raise BackendError(
            f"can't listen on {settings.host} port {settings.port} ({why}): set a different HOST or PORT"
        ) from None
