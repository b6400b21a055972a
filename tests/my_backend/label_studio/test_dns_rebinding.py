"""Where the backend connects if names and redirects mislead it: a real resolver, real DNS, real servers.

In a separate network (Linux namespaces) every address is reachable, so that only the backend's check prevents it.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.my_backend.own_network import LABEL_STUDIO, PUBLIC, TOKEN

ROOT = Path(__file__).parents[3]
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]


def can_unshare() -> bool:
    needed = all(map(shutil.which, ("unshare", "ip", "mount")))
    return needed and subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=30).returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason="this system gives no network namespaces to its users")


def fetched_in_own_network(folder: Path, asked: list[tuple[str, str]]) -> Any:
    command = [*UNSHARE, sys.executable, "-m", "tests.my_backend.own_network", str(folder)]
    ran = subprocess.run(
        command, input=json.dumps(asked), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


FORBIDDEN = [
    "http://loopback.example/",
    "http://private.example/",
    "http://several.example/",
    "http://metadata.example/latest/meta-data/",
    "http://mapped-metadata.example/",
    "http://v6.example/",
    "http://mapped.example/",
    "http://nat64.example/",
    "http://unknown.example/",
    "http://127.0.0.1/",
    "http://127.1/",
    "http://0/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://0xa9fea9fe/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://public.example@127.0.0.1/",
    "http://public.example:80@127.0.0.1/",
    "http://127.0.0.1#@public.example/",
    "http://127.0.0.1?@public.example/",
    "http://label-studio.example@127.0.0.1/",
    "http://127.0.0.1%00.public.example/",
    "http://loopback.example./",
]


# Parsers do not agree on whose host this is: it may be fetched from the public one.
AMBIGUOUS = ["http://127.0.0.1\\@public.example/", "http://public.example\\@127.0.0.1/"]


@pytest.mark.parametrize("media", ["without Label Studio", "with Label Studio"])
def test_nothing_leads_to_an_address_that_is_not_public(tmp_path: Path, media: str) -> None:
    redirects = [f"http://public.example/to/{url}" for url in (*FORBIDDEN, *AMBIGUOUS)]
    report = fetched_in_own_network(tmp_path, [(media, url) for url in (*FORBIDDEN, *AMBIGUOUS, *redirects)])

    assert report["plain"] == [200, 200]
    assert report["control"] == [f"::ffff:{PUBLIC}", "::ffff:127.0.0.1"], "a client without a check is led astray"
    fetched = {one["url"] for one in report["found"] if one["outcome"] == "fetched"}
    assert {url for url in fetched if not url.endswith(tuple(AMBIGUOUS))} == set()
    assert {one["to"] for one in report["connections"]} <= {f"::ffff:{PUBLIC}"}
    assert len(report["connections"]) >= len(redirects)


def test_name_that_is_bound_again_is_refused(tmp_path: Path) -> None:
    alone = "without Label Studio"
    report = fetched_in_own_network(
        tmp_path,
        [
            (alone, "http://rebinding.example/first"),
            (alone, "http://rebinding.example/second"),
            (alone, "http://rebinding-for-redirects.example/to/http://rebinding-for-redirects.example/second"),
        ],
    )

    first, second, redirected = [one["outcome"] for one in report["found"]]
    assert first == "fetched"
    assert "rebinding.example is on a private network (127.0.0.1)" in second
    # A connection that is kept open still leads where it was checked; a new one is checked again.
    assert redirected == "fetched" or "private network" in redirected
    assert {one["to"] for one in report["connections"]} == {f"::ffff:{PUBLIC}"}


def test_token_reaches_label_studio_and_no_other_server(tmp_path: Path) -> None:
    urls = [
        "/data/upload/7/a.png",
        "http://label-studio.example/data/upload/7/b.png",
        "http://label-studio.example/to/http://public.example/from-label-studio",
        "http://label-studio.example/to/http://label-studio.example@public.example/",
        "http://label-studio.example/to/http://label-studio.example:81@public.example/",
        "http://label-studio.example@public.example/userinfo",
        "http://public.example/label-studio.example",
        "http://public.example#@label-studio.example/",
        "http://public.example\\@label-studio.example/",
        "http://public.example/to/http://public.example/twice",
    ]
    report = fetched_in_own_network(tmp_path, [("with Label Studio", url) for url in urls])

    places = {one["to"].removeprefix("::ffff:") for one in report["connections"]}
    assert places == {LABEL_STUDIO, PUBLIC}
    told = {one["to"].removeprefix("::ffff:") for one in report["connections"] if TOKEN in (one["token"] or "")}
    assert told == {LABEL_STUDIO}
