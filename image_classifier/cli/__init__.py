"""The command line: `python -m image_classifier`."""
