"""Trains image classifiers and predicts images. Independent of Label Studio, HTTP and Redis."""
