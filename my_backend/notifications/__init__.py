"""Tells people outside the page what happened: trained versions, failed trainings, and problems."""
