"""Evaluates classifiers and predicts images."""
