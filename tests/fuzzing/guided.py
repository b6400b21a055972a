"""Fuzzes one target in this process, guided by coverage: inputs that reach new code are kept and changed further.

`python -m tests.fuzzing.guided TARGET SECONDS …`, with libFuzzer's options and folders. It ends after so many seconds
of processor time, or at the first input that breaks the target.
"""

import logging
import os
import signal
import sys
import time
import warnings

import atheris

from tests.fuzzing.limits import within_limits
from tests.fuzzing.targets import load

INSTRUMENTED = ["image_classifier", "label_studio_format", "my_backend", "safe_http", "task_classifier", "PIL"]


def main(name: str, seconds: float, options: list[str]) -> None:
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = load(name)
    with target.open() as read:
        limited, end = within_limits(target, read), time.process_time() + seconds

        def run(data: bytes) -> None:
            limited(data)
            if time.process_time() > end:
                os.kill(os.getpid(), signal.SIGUSR1)  # libFuzzer ends in good order

        again = f"{sys.executable} -m tests.fuzzing.guided {name} {seconds}"  # a command for a shell
        atheris.Setup([again, *options], run)
        atheris.Fuzz()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
