"""Remotes: the host's side of Django Remotes and Duplicati.

Imports nothing, so that a module of the package can be had without the others.
"""

__version__ = "0.1.0"
