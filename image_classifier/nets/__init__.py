"""Networks: architectures, weights, saved classifiers."""
