"""Writes the file that a shell sources to use the cluster: kubeconfig, S3 server, and the programs' folder."""

import shlex

from devcluster.object_store import S3Server
from devcluster.state import StateDirectory, write_file


def write_environment(state: StateDirectory, object_store: S3Server | None) -> None:
    """Write `env` into the state folder; it holds a secret and is readable by its owner only."""
    variables = {"KUBECONFIG": str(state.kubeconfig)}
    if object_store is not None:
        variables |= {
            "S3_ENDPOINT": object_store.endpoint,
            "AWS_ENDPOINT_URL_S3": object_store.endpoint,
            "AWS_ACCESS_KEY_ID": object_store.access_key.identifier,
            "AWS_SECRET_ACCESS_KEY": object_store.access_key.secret,
            "AWS_REGION": object_store.region,
        }
    write_file(state.environment, build_environment(variables, str(state.programs)))


def build_environment(variables: dict[str, str], programs: str) -> str:
    """Write the lines; sourcing them twice does not grow PATH."""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    quoted = shlex.quote(programs)
    return f'{exports}case ":$PATH:" in *:{quoted}:*) ;; *) export PATH={quoted}:"$PATH" ;; esac\n'
