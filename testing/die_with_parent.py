"""Runs a command that ends when its parent ends, even if the parent is killed: die_with_parent.py PARENT COMMAND ...

Only the child process can ask the kernel for this. It is a separate script because Python code between fork and exec
(`preexec_fn`) can deadlock in a program with threads. Linux only; elsewhere the command just runs.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # survives the exec below


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent ended before the call
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
