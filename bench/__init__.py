"""Measures nsbox from outside, over HTTP, and what else one could have used. `python -m bench --help`."""
