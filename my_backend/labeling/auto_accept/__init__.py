"""Accepts predictions without review, once a random sample shows that few of them are wrong."""
