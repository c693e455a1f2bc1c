"""What sandboxes have written, kept, compared and given out. All of it is hostile, and read in a box.

The programs (``take``, ``diff``, ``export``) are started by keeper in the outer namespace, standard library
only. ``orders`` is api's side of the conversation.
"""
