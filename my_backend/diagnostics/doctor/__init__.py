"""`python -m my_backend doctor`: actively checks everything."""
