"""The client for programs with threads, or without any."""
