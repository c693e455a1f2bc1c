"""keeper: root of the outer user namespace, maker and ender of sandboxes.

Small and single-threaded, standard library, prctl, cgroupspy and nsbox's kernel layer only: every init is a
fork of this process, so whatever is imported here is in every sandbox's memory. No secret ever comes here.
"""
