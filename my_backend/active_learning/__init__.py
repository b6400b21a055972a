"""Keeps what Label Studio shows and sorts tasks by up to date: the model's title, scores, stored predictions."""
