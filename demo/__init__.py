"""`make demo`: the whole loop with a real Label Studio and real images."""
