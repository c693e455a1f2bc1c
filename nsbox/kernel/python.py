"""Starting another Python of nsbox's own, isolated from the environment and the current folder."""

import os
import sys

_PACKAGE_HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from importlib import import_module; "
    "sys.exit(import_module(sys.argv[2]).main(sys.argv[3:]))"
)


def command(module: str, argument: str) -> list[str]:
    """The command line for ``main([argument])`` of ``module``.

    ``-I``: no PYTHON* variable, user site or current folder decides what is imported. Where the package
    itself lies is therefore said, since it may be a checkout.
    """
    return [sys.executable, "-I", "-c", _START, _PACKAGE_HOME, module, argument]
