"""The one exception of this package: a sentence for the person at the terminal, with the next action in it.

The command line prints it and exits with 1; whoever uses the Python API sees it as an ordinary exception.
"""


class DevClusterError(Exception):
    """Something the user has to act on."""
