"""Labeling runs: many labels that are written to Label Studio together, and can be undone together."""
