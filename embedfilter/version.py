"""The version of the package, which filters carry with them."""

__version__ = "0.1.0"
