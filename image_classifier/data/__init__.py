"""Images and labels: files, decoding, folders, splits."""
