"""Tests of data: URIs: they are read as in browsers, within limits."""

import base64
import re
import tracemalloc
from urllib.parse import quote

import pytest

from my_backend.label_studio.media import ImageLimits, MediaRequest
from testing.fake_label_studio.server import PNG
from tests.my_backend.label_studio.conftest import OpenMedia, content, why_not

BODY = PNG + bytes(range(256)) + b"x"  # its base64 has all characters, and padding
BASE64 = base64.b64encode(BODY).decode()
WRAPPED = "\r\n".join(BASE64[start : start + 76] for start in range(0, len(BASE64), 76))


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{BASE64}",
        f"data:image/png;base64,{quote(BASE64)}",
        f"data:image/png;base64,{''.join(f'%{ord(one):02x}' for one in BASE64)}",
        f"data:image/png;base64,{WRAPPED}",
        f"data:image/png;base64,{quote(WRAPPED)}",
        f"data:image/png;base64,{WRAPPED.replace(chr(13), '')}\n",
        f"data:image/png;base64, {' '.join(BASE64)}\t",
        f"data:image/png;base64,{BASE64.rstrip('=')}",
        f"data:image/png;base64,{BASE64.replace('=', '%3D')}",
        f"DATA:image/png;base64,{BASE64}",
        f"data:IMAGE/PNG;BASE64,{BASE64}",
        f"data:image/png;base64 ,{BASE64}",
        f"data:image/png;  base64,{BASE64}",
        f"data:image/png;charset=utf-8;base64,{BASE64}",
        f"data:image/png;name=a b.png;base64,{BASE64}",
        f"data:;base64,{BASE64}",
        f"data:text/plain;base64,{BASE64}",
        f" \n data:image/png;base64,{BASE64}",
        f"da\nta:image/png;ba\rse64,{BASE64}",
        f"data:image/png;base64,{BASE64}#fragment",
        f"data:,{quote(BODY)}",
        f"data:image/png,{quote(BODY)}",
        f"data:image/png;charset=utf-8,{quote(BODY, safe='')}",
        f"data:image/png;charset=utf-8,{re.sub('%..', lambda e: e[0].lower(), quote(BODY))}#fragment",
    ],
)
def test_data_uri_is_the_image(open_media: OpenMedia, url: str) -> None:
    assert content(open_media().fetch(MediaRequest(url))) == BODY


@pytest.mark.parametrize("shift", range(4))
def test_escapes_of_a_long_data_uri_are_not_cut(open_media: OpenMedia, shift: int) -> None:
    body = PNG + b"x" * shift + b"%" * 100_000 + b"%4"

    url = f"data:,{quote(PNG + b'x' * shift)}{'%25' * 100_000}%4"

    assert content(open_media().fetch(MediaRequest(url))) == body


@pytest.mark.parametrize("escape", ["", "%41"])
def test_data_uri_takes_memory_by_its_length_alone(open_media: OpenMedia, escape: str) -> None:
    url = "data:image/png;base64," + (escape or "AAAA") * 1_000_000
    media = open_media(limits=ImageLimits(max_bytes=1000))
    tracemalloc.start()
    try:
        assert "more than 1,000 bytes" in why_not(media, url)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 6 * len(url)
