"""The dashboard: files for a browser, in ``static``. ``nsbox.api.assets`` serves them; what they do goes
through the API, with the same keys, as everybody else's requests."""
