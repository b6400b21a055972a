"""`python -m my_backend doctor`: checks everything actively."""
