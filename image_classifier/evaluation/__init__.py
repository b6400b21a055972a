"""How good a classifier is, and its predictions."""
