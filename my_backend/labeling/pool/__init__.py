"""All images of a project, compared by their embeddings, and the ones to label next."""
