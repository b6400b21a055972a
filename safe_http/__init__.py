"""HTTP to hosts that users name: allowed addresses only, within limits, and no secret in any text.

Independent of the other packages: the backend and the command line both use it.
"""
