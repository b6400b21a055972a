"""Calls a function of the user for every published version."""
