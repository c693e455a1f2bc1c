"""nsbox: isolated Linux environments over a plain REST API, on one host, without root."""

__version__ = "0.1.0"
