"""`python -m image_classifier`."""

from image_classifier.recipes.cli import main
from image_classifier.recipes.console import log_to_console, take_any_name

if __name__ == "__main__":
    log_to_console()
    take_any_name()
    main()
