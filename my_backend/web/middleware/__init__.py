"""What applies to every request, whichever endpoint it is for."""
