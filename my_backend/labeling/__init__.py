"""Labels many tasks in Label Studio at once, at a person's request, and undoes it."""
