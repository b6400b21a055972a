"""Finds problems: the summary for the page and programs, and the doctor."""
