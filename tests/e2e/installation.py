"""The operator of the tests: installed by its chart, with a few settings, and killed."""

from __future__ import annotations

from examples.quickstart.environment import Environment
from examples.quickstart.installation import NAMESPACE, RELEASE, install_operator
from tests.e2e.nodes import NODES

SETTINGS = (
    "progress.minIntervalSeconds=1",
    # On the node that no test takes away.
    f"nodeSelector.kubernetes\\.io/hostname={NODES[0].name}",
)
DEPLOYMENT = f"deployment/{RELEASE}"


def install(environment: Environment, *settings: str) -> None:
    """`helm upgrade --install` of this tree's chart; returns when the operator is ready."""
    install_operator(environment, *SETTINGS, *settings)


def uninstall(environment: Environment) -> None:
    """`helm uninstall`, as the chart's README says it."""
    environment.run("helm", "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", quiet=True)


def restart(environment: Environment) -> None:
    """Start it anew, with the image that now has the name."""
    for action in ("restart", "status"):
        environment.run("kubectl", "-n", NAMESPACE, "rollout", action, DEPLOYMENT, quiet=True)


def kill(environment: Environment) -> None:
    """End its pod without a moment to clean up; the Deployment makes another one."""
    selector = "app.kubernetes.io/name=finetune-operator"
    environment.run(
        *("kubectl", "-n", NAMESPACE, "delete", "pod", "--grace-period=0", "--force", "-l", selector),
        quiet=True,
    )
