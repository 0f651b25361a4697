"""The version, alone in a file so that `setup.py` reads it as text."""

__version__ = "0.1.0"
