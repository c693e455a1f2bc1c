"""Previews: what listens in sandboxes, under URLs. A listener of its own, in api's process."""
