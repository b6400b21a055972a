"""What lies in Redis, where others may look: no pickles, which are programs, and no secrets."""

import base64
import binascii
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from testing.fake_label_studio.annotated_projects import TOKEN, AnnotatedProjects
from testing.production import Redis
from testing.waiting import eventually
from tests.production.conftest import MakeProduction
from tests.production.memorizing_model import Script
from tests.production.site import Site, kill

PASSWORD = "the-password-of-basic-auth"
SETUP_TOKEN = "the-token-that-came-with-setup"
PICKLE = b"\x80"  # the opcode with which pickles begin


def test_redis_has_no_pickles_and_no_secrets(
    redis: Redis,
    production: MakeProduction,
    label_studio: AnnotatedProjects,
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_SECRET", "in-the-environment")
    secured = production(redis, BASIC_AUTH_USER="me", BASIC_AUTH_PASS=PASSWORD)
    site = Site(secured, redis, label_studio, script)
    site.setup = {"hostname": label_studio.url, "access_token": SETUP_TOKEN}
    site.start()
    site.annotate(1, "Cat")
    site.wait_until_settled()
    script.order(raises=f"it failed with {TOKEN}")
    site.wait_for(site.start_training(), "failed")
    script.order()
    script.hold("full")
    running = site.start_training()
    assert eventually(lambda: script.events("epoch", kind="full"))
    check(redis)
    horse = site.workers[""].work_horse()
    assert horse is not None
    kill(horse.pid)
    assert eventually(lambda: site.job(running).attempts == 2)
    script.release("full")
    site.wait_for(running, "finished")

    data = check(redis)

    called = [json.loads(text) for text in data if text.startswith(b'["my_backend')]
    assert ["my_backend.jobs.worker.perform", None, [running], {}] in called, "a dotted path and JSON facts"


def check(redis: Redis) -> list[bytes]:
    """All that can be read in Redis."""
    found = [
        text for key in redis.client.scan_iter() for value in (key, *values(redis, key)) for text in readable(value)
    ]
    assert any(b"rq:job:" in text for text in found)
    for text in found:
        assert not text.startswith(PICKLE), text
        for secret in (TOKEN, PASSWORD, SETUP_TOKEN, "in-the-environment"):
            assert secret.encode() not in text, text
    return found


def values(redis: Redis, key: bytes) -> Iterator[bytes]:
    client: Any = redis.client
    kind = client.type(key)
    if kind == b"string":
        if (value := client.get(key)) is not None:  # it may expire in between
            yield value
    elif kind == b"hash":
        for name, value in client.hgetall(key).items():
            yield from (name, value)
    elif kind == b"list":
        yield from client.lrange(key, 0, -1)
    elif kind == b"set":
        yield from client.smembers(key)
    elif kind == b"zset":
        yield from client.zrange(key, 0, -1)
    elif kind == b"stream":
        for _, fields in client.xrange(key):
            for name, value in fields.items():
                yield from (name, value)
    else:
        assert kind == b"none", f"{key!r} is a {kind!r}"  # it is gone since


def readable(value: bytes) -> Iterator[bytes]:
    """The value, and what comes out where it was compressed or encoded."""
    yield value
    with suppress(zlib.error):
        yield zlib.decompress(value)
    with suppress(binascii.Error):
        yield base64.b64decode(value, validate=True)
