"""Embeddings of images: computed in one thread, cached on disk."""
