"""Learns and classifies images. Knows nothing of Label Studio, HTTP or Redis."""
