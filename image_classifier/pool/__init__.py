"""What the embeddings of all images tell, labeled or not."""
