"""Everything that happens to a model before it is served. Shares the directory format with the gateway, and no code."""

__version__ = "0.1.0"
