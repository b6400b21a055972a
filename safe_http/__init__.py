"""HTTP to hosts that users name: allowed addresses only, within limits, and no secret in any text.

Needs nothing of the rest: the backend and the command line both use it.
"""
