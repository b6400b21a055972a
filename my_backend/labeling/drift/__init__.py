"""Whether the newest images look unlike the labeled ones."""
