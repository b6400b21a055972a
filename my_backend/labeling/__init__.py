"""Labels many tasks in Label Studio at once, if a person asks for it, and undoes that."""
