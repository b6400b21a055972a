"""Tells people outside the page what happened: trained versions, failed training runs, and problems."""
