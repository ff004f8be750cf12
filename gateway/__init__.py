"""Dropgate's gateway: drop a model directory onto a volume, and it serves."""

__version__ = "0.1.0"
