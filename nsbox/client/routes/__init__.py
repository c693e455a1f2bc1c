"""Every route as a function: from a wish to a ``Call``. Nothing here knows how a call is sent.

The first parameter of each is where its thing is: ``/sandboxes/sb_…``, or nothing for what belongs to the
whole daemon. Times are seconds here, and milliseconds in the API."""
