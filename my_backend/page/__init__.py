"""The page in a browser: what the models know, do and get wrong."""
