"""The command line: `python -m my_backend`."""
