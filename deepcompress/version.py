"""The version, once; setup.cfg and the cache of compiled kernels read it from here."""

__version__ = "0.1.0"
