"""Which Label Studio is asked with which token, and how long a client for it lasts."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from my_backend.errors import LabelStudioError
from my_backend.label_studio import connections as connections_module
from my_backend.label_studio.connections import Connections
from my_backend.projects.registry import Credentials
from safe_http.session import Limits
from testing.fake_label_studio.server import FakeLabelStudio
from testing.http_server import FakeServer, Reply
from tests.my_backend.conftest import MakeSettings


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "[::ffff:169.254.169.254]", "168.63.129.16"])
def test_label_studio_is_never_asked_at_a_metadata_address(make_settings: MakeSettings, host: str) -> None:
    settings = make_settings(label_studio_url=f"http://{host}", label_studio_api_key="x", image_hosts=(host,))
    found = Connections(settings).label_studio()
    assert found is not None

    with pytest.raises(LabelStudioError, match="metadata address"):
        found.release()


CONFIGURED = {"label_studio_url": "http://configured:8080/", "label_studio_api_key": "key"}


@pytest.mark.parametrize(
    ("settings", "credentials", "expected"),
    [
        ({}, None, None),
        (CONFIGURED, None, ("http://configured:8080", "key")),
        (CONFIGURED, Credentials("http://told", "told"), ("http://configured:8080", "key")),
        ({}, Credentials("http://told:80/", "told"), ("http://told:80", "told")),
        ({"label_studio_api_key": "key"}, Credentials("http://told", "told"), ("http://told", "told")),
        (
            {"label_studio_url": "http://told:80"},
            Credentials("http://told", "told"),
            ("http://told", "told"),
        ),
        ({"label_studio_url": "http://configured"}, Credentials("http://told", "told"), ("http://configured", "")),
        ({"label_studio_url": "http://configured"}, Credentials("http://[", "told"), ("http://configured", "")),
        ({}, Credentials("told without a scheme", "told"), None),
        ({}, Credentials("http://[", "told"), None),
    ],
)
def test_key_goes_to_the_configured_url_and_setups_token_to_its_sender(
    make_settings: MakeSettings,
    settings: dict[str, str],
    credentials: Credentials | None,
    expected: tuple[str, str] | None,
) -> None:
    found = Connections(make_settings(**settings)).label_studio(credentials)

    assert (found and (found.url, found._token)) == expected


def test_token_is_sent_though_setup_named_a_user(label_studio: FakeLabelStudio, make_settings: MakeSettings) -> None:
    hostname = label_studio.url.replace("//", "//me:password@")
    found = Connections(make_settings()).label_studio(Credentials(hostname, label_studio.pat))
    assert found is not None
    assert found.project(7)["id"] == 7


def test_label_studio_may_be_private_but_not_other_ports_of_its_host(
    label_studio: FakeLabelStudio, make_settings: MakeSettings
) -> None:
    found = Connections(
        make_settings(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat)
    ).label_studio()
    assert found is not None
    assert found.project(7)["id"] == 7

    with FakeServer(lambda seen: Reply()) as other, pytest.raises(OSError, match="private network"):
        found.get(other.url, Limits(), time.monotonic() + 5)


# How long a client lasts


def test_client_is_kept_for_each_url_and_token(make_settings: MakeSettings) -> None:
    connections = Connections(make_settings())
    first = connections.label_studio(Credentials("http://one", "a"))

    assert first is not None
    assert connections.label_studio(Credentials("http://one", "a")) is first
    assert connections.images() is connections.images()
    for changed in (Credentials("http://one", "b"), Credentials("http://two", "a")):
        other = connections.label_studio(changed)
        assert other is not None
        assert (other.url, other._token) == (changed.hostname, changed.access_token)


def test_clients_used_longest_ago_are_forgotten(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "MOST_CLIENTS", 2)
    connections = Connections(make_settings())
    one, two, three = (Credentials("http://told", token) for token in ("1", "2", "3"))
    first, second = connections.label_studio(one), connections.label_studio(two)

    assert connections.label_studio(one) is first  # so that it was used last
    connections.label_studio(three)

    assert connections.label_studio(one) is first
    assert connections.label_studio(two) is not second


def test_many_threads_get_the_same_client(make_settings: MakeSettings) -> None:
    connections = Connections(make_settings())
    start = threading.Barrier(8)

    def get() -> object:
        start.wait()
        return connections.label_studio(Credentials("http://told", "token"))

    with ThreadPoolExecutor(8) as threads:
        found = {id(one.result()) for one in [threads.submit(get) for _ in range(8)]}

    assert len(found) == 1


def test_forked_process_has_clients_of_its_own(make_settings: MakeSettings) -> None:
    connections = Connections(make_settings())
    credentials = Credentials("http://told", "token")
    client, images = connections.label_studio(credentials), connections.images()

    with connections._lock:  # as if another thread were getting one just now
        process = os.fork()
        if process == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)  # ends this process if it waits for the lock
            try:
                own = connections.label_studio(credentials)
                assert own not in (None, client)
                assert connections.label_studio(credentials) is own
                assert connections.images() is not images
                os._exit(0)
            finally:
                os._exit(1)
    _, status = os.waitpid(process, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert connections.label_studio(credentials) is client
