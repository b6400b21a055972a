"""Images and their labels: files, decoding, folders, splits."""
