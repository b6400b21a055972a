"""Predictions before the first label, for networks that were trained on ImageNet."""
