"""`python -m image_classifier`."""

from image_classifier.cli.console import log_to_console, take_any_name
from image_classifier.cli.main import main

if __name__ == "__main__":
    log_to_console()
    take_any_name()
    main()
