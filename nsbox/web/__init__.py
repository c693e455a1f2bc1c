"""The dashboard: files for a browser, in ``static``. ``nsbox.api.assets`` serves them; all they do goes through
the same API, with the same keys, as everybody else's requests."""
