"""Counts what happens, in processes and on disk; `web/prometheus` publishes it."""
