"""Removes a layer's tree: ``main([FOLDER])``. Runs in the outer namespace, where its owners' ids exist.

Under another name: a layer that has its own name is complete, also when we are killed in the middle.
"""

import os
import sys

from nsbox.kernel import trees

REMOVED = ".removed"


def main(arguments: list[str]) -> int:
    """0 when nothing of it is left, also where nothing was."""
    parent, name = os.path.split(arguments[0])
    try:
        directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _remove(directory, name + REMOVED)  # what an earlier one has left
        try:
            os.rename(name, name + REMOVED, src_dir_fd=directory, dst_dir_fd=directory)
        except FileNotFoundError:
            return 0
        os.fsync(directory)
        _remove(directory, name + REMOVED)
    except OSError as error:
        print(f"nsbox: cannot remove the layer {name}: {error}", file=sys.stderr)
        return 1
    return 0


def _remove(directory: int, name: str) -> None:
    try:
        trees.remove_tree(directory, name)
    except FileNotFoundError:
        pass
