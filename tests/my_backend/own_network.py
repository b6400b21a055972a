"""A network of its own, for a process under `unshare --user --map-root-user --net --mount`: addresses, names, servers.

Every address below is on the loopback interface, so that a connection to any of them would succeed; names are answered
by a DNS server that changes its mind. Prints what the backend fetched there, and whom it connected to, as JSON.
"""

import json
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests

from my_backend.errors import MediaError
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.media import Media, MediaRequest, media_pool
from safe_http.session import SafeSession
from testing.fake_label_studio.server import PNG

PUBLIC, LABEL_STUDIO, METADATA = "93.184.215.14", "93.184.215.15", "169.254.169.254"
TOKEN = "0123456789abcdef0123456789abcdef01234567"

# Each look-up of a name gets the next of its answers, the last one again and again.
NAMES: dict[str, list[list[str]]] = {
    "public.example": [[PUBLIC]],
    "label-studio.example": [[LABEL_STUDIO]],
    "rebinding.example": [[PUBLIC], ["127.0.0.1"]],
    "rebinding-for-redirects.example": [[PUBLIC], ["127.0.0.1"]],
    "rebinding-for-anyone.example": [[PUBLIC], ["127.0.0.1"]],
    "several.example": [["93.184.215.99", "127.0.0.1"]],
    "loopback.example": [["127.0.0.1"]],
    "private.example": [["10.0.0.1"]],
    "metadata.example": [[METADATA]],
    "v6.example": [["::1"]],
    "mapped.example": [["::ffff:127.0.0.1"]],
    "mapped-metadata.example": [["::ffff:169.254.169.254"]],
    "nat64.example": [["64:ff9b::7f00:1"]],
}
asked: Counter[tuple[str, int]] = Counter()  # look-ups by name and kind: the resolver asks for A and AAAA
connections: list[dict[str, Any]] = []


def build() -> None:
    """Addresses on loopback, and a resolver that asks our DNS server alone; needs the namespaces of `unshare`."""
    for command in (
        "ip link set lo up",
        *(f"ip address add {address}/32 dev lo" for address in (PUBLIC, LABEL_STUDIO, METADATA, "10.0.0.1")),
    ):
        subprocess.run(command.split(), check=True)
    folder = Path(sys.argv[1])
    for name, text in {
        "resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
        "nsswitch.conf": "hosts: files dns\n",
    }.items():
        (folder / name).write_text(text)
        subprocess.run(["mount", "--bind", folder / name, f"/etc/{name}"], check=True)


class Dns(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        query, connection = self.request
        labels, position = [], 12
        while length := query[position]:
            labels.append(query[position + 1 : position + 1 + length].decode())
            position += length + 1
        question, kind = query[12 : position + 5], struct.unpack(">H", query[position + 1 : position + 3])[0]
        name = ".".join(labels).lower()
        answers, turn = NAMES.get(name, [[]]), asked[name, kind]
        asked[name, kind] += 1
        now = answers[min(turn, len(answers) - 1)]
        records = []
        for address in now:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            if kind == (28 if family == socket.AF_INET6 else 1):
                packed = socket.inet_pton(family, address)
                records.append(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(packed)) + packed)
        status = 0x8180 if name in NAMES else 0x8183
        header = query[:2] + struct.pack(">HHHHH", status, 1, len(records), 0, 0)
        connection.sendto(header + question + b"".join(records), self.client_address)


class Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        connections.append(
            {"to": self.connection.getsockname()[0], "path": self.path, "token": self.headers.get("Authorization")}
        )
        where = self.path.partition("/to/")[2]
        self.send_response(302 if where else 200)
        if where:
            self.send_header("Location", where)
        self.send_header("Content-Length", str(0 if where else len(PNG)))
        self.end_headers()
        self.wfile.write(b"" if where else PNG)

    def log_message(self, *_: object) -> None:
        """Nothing is to be printed."""


class BothFamilies(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def fetch(media: Media, url: str) -> str:
    try:
        media.fetch(MediaRequest(url, 1))
    except MediaError as error:
        return str(error)
    return "fetched"


def main() -> None:
    build()
    for server in (socketserver.ThreadingUDPServer(("127.0.0.1", 53), Dns), BothFamilies(("::", 80), Web)):
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    plain = [requests.get("http://rebinding-for-anyone.example/", timeout=5).status_code for _ in range(2)]
    control, connections[:] = [one["to"] for one in connections], []
    # metadata.example is allowed by its name, which must not help.
    session = SafeSession(["metadata.example", "mapped-metadata.example"])
    label_studio = LabelStudio("http://label-studio.example", TOKEN, SafeSession(["label-studio.example"]))
    with media_pool() as pool:
        medias = {
            "without Label Studio": Media(Path(sys.argv[1]) / "without", session, None, pool),
            "with Label Studio": Media(Path(sys.argv[1]) / "with", session, label_studio, pool),
        }
        found = [{"media": name, "url": url, "outcome": fetch(medias[name], url)} for name, url in json.load(sys.stdin)]
    print(json.dumps({"plain": plain, "control": control, "found": found, "connections": connections}))


if __name__ == "__main__":
    main()
