"""`python -m my_backend`"""

from my_backend.commands.cli import app

app(prog_name="python -m my_backend")
