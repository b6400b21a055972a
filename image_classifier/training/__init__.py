"""Training: the head, all layers, corrections."""
