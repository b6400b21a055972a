"""What is kept of each Label Studio project."""
