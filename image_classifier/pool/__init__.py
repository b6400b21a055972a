"""Uses the embeddings of all images, labeled or not, to group, order and accept them."""
