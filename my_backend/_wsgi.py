"""The entry points for `label-studio-ml start my_backend` and for uWSGI."""

import argparse
import gc
import sys
from pathlib import Path

# Started as a script, Python looks for modules next to it, where `logs` or `status` would hide others' modules.
HERE = Path(__file__).resolve().parent
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != HERE]
if str(HERE.parent) not in sys.path:
    sys.path.insert(0, str(HERE.parent))

# Imports leave hardly any garbage, and looking for it would take a tenth of the time until the server listens.
gc.disable()
from my_backend.commands.server import application_for_uwsgi, serve  # noqa: E402

gc.enable()

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="A machine-learning backend for Label Studio; see also `python -m my_backend --help`."
    )
    parser.add_argument("-p", "--port", type=int, help="port to listen on [PORT]")
    parser.add_argument("--host", help="address to listen on [HOST]")
    arguments = parser.parse_args()
    serve(arguments.host, arguments.port)
else:
    application = application_for_uwsgi()
