"""The live models, and the class that makes them."""
