"""A namespace of processes, as a container has: what begins there is the first one, and all end with it."""

import shutil
import subprocess

import pytest

UNSHARE = [
    shutil.which("unshare") or "unshare",
    "--user",
    "--map-root-user",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
]

needs_namespaces = pytest.mark.skipif(
    not shutil.which(UNSHARE[0]) or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode != 0,
    reason="this system gives no process namespaces to its users",
)
