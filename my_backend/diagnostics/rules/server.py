"""Problems with the server and its settings."""

from my_backend.diagnostics.problem import Problem

OPEN_PROXY = Problem(
    "open-proxy",
    "Requests come through a proxy, and no password is set: anyone whom the proxy lets through can start training "
    "and view images.",
    "Set BASIC_AUTH_USER and BASIC_AUTH_PASS, and restart the backend. Until then, the backend ignores the Label "
    "Studio address in these requests.",
)


def invalid_settings(error: str) -> Problem:
    """Settings that can't be used; `error` has a line for each."""
    first, *faults = error.splitlines()
    hint = "Correct these settings; docs/reference/settings.md lists all settings."
    return Problem("settings", first, hint, details=tuple(map(str.strip, faults)))


def other_server(url: str) -> Problem:
    """The server at the URL isn't the one that the doctor's settings are for."""
    return Problem(
        "server",
        f"The server at {url} uses a different MODEL_DIR than the doctor, so it is a different backend.",
        "Run the doctor in the server's working directory with the server's settings, or set PORT to your own server's "
        "port.",
    )


def server_not_found(url: str, why: str) -> Problem:
    """There is no server of ours at the URL."""
    return Problem(
        "server",
        f"Can't find the backend's server at {url}: {why}.",
        "Start it (`make start`, `make production`), or run the doctor with the server's settings: HOST, PORT, "
        "BASIC_AUTH_USER and BASIC_AUTH_PASS.",
    )
