"""Requests to Label Studio, and to the servers that have its images."""
