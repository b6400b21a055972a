"""Training runs in the background: when they start, where they run, and what they have learned."""
