"""CI jobs in rootless containers, without Docker-in-Docker and without a daemon."""

__version__ = "0.1.0"
