"""A real one-machine Kubernetes and an S3 server, for the quickstart and for tests.

`python -m devcluster --help` is the command line; the classes here are the same thing for Python.
"""

from devcluster.cluster import Cluster
from devcluster.control_plane import ControlPlane
from devcluster.errors import DevClusterError
from devcluster.object_store import AccessKey, S3Server

__all__ = ["AccessKey", "Cluster", "ControlPlane", "DevClusterError", "S3Server"]
