"""Removes a layer's tree: ``main([FOLDER])``. Runs in the outer namespace, where its owners' ids exist."""

import os
import sys

from nsbox.kernel import trees


def main(arguments: list[str]) -> int:
    """0 when nothing of it is left, also where nothing was."""
    parent, name = os.path.split(arguments[0])
    try:
        directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        trees.remove_tree(directory, name)
    except FileNotFoundError:
        return 0
    except OSError as error:
        print(f"nsbox: cannot remove the layer {name}: {error}", file=sys.stderr)
        return 1
    return 0
