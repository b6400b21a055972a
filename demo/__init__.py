"""`make demo`: the whole workflow with a real Label Studio and real images."""
