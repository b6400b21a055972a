"""`python -m my_backend`, and the command `image-classifier-backend`."""

from my_backend.commands.cli import app


def run() -> None:
    """Runs the command line with the arguments of this process."""
    # Shell completion needs the command's name, also if it is installed by `python -m my_backend`.
    app(prog_name="image-classifier-backend")


if __name__ == "__main__":
    run()
