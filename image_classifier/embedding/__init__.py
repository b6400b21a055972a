"""Image embeddings, computed in one thread and cached on disk."""
