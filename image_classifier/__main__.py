"""`python -m image_classifier`, and the command `image-classifier`."""

from image_classifier.cli.console import log_to_console, take_any_name
from image_classifier.cli.main import main


def run() -> None:
    """Runs the command line with the arguments of this process."""
    log_to_console()
    take_any_name()
    main()


if __name__ == "__main__":
    run()
