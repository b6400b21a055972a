"""The command line on folders of images: from a recipe of ingredients to a model, its figures, and its uses."""
