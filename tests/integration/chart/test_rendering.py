"""What the chart renders: rights, pod, environment, and the objects behind options."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api import names
from finetune_operator.settings import load_settings
from tests.integration.chart.conftest import NAMESPACE, RELEASE, Helm, pick

CERTIFICATE = f"{RELEASE}-certificate"
JOB_RIGHTS = {
    ("finetune.dev", "finetunejobs"): {"get", "list", "watch"},
    ("finetune.dev", "finetunejobs/status"): {"update"},
    ("finetune.dev", "finetunejobs/finalizers"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("", "pods"): {"list", "watch"},
    ("", "configmaps"): {"get", "create", "patch", "delete"},
    ("", "events"): {"create", "list"},
}
REVIEW_RIGHTS = {("authentication.k8s.io", "tokenreviews"): {"create"}}


def rights(role: dict[str, Any]) -> dict[tuple[str, str], set[str]]:
    granted: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                granted.setdefault((group, resource), set()).update(rule["verbs"])
    return granted


def environment(objects: list[dict[str, Any]]) -> dict[str, str]:
    container = pick(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each.get("value", "") for each in container["env"]}


def test_cluster_mode_grants_exactly_what_the_operator_uses(helm: Helm) -> None:
    objects = helm.objects()
    assert rights(pick(objects, "ClusterRole", RELEASE)) == JOB_RIGHTS | REVIEW_RIGHTS
    assert [o["metadata"]["name"] for o in objects if o["kind"] == "Role"] == [CERTIFICATE]


def test_namespaced_mode_grants_jobs_only_in_the_watched_namespaces(helm: Helm) -> None:
    objects = helm.objects("--set", "watchNamespaces={team-a,team-b}")
    assert rights(pick(objects, "ClusterRole", RELEASE)) == REVIEW_RIGHTS
    roles = {o["metadata"]["namespace"]: rights(o) for o in objects if o["kind"] == "Role"}
    assert roles.pop(NAMESPACE) == {("", "secrets"): {"get", "update"}}
    assert roles == {"team-a": JOB_RIGHTS, "team-b": JOB_RIGHTS}
    assert environment(objects)["FINETUNE_WATCH_NAMESPACES"] == "team-a,team-b"


def test_every_binding_names_an_existing_role_and_the_operators_account(helm: Helm) -> None:
    objects = helm.objects("--set", "watchNamespaces={team-a,team-b}")
    roles = {(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects}
    bindings = [o for o in objects if o["kind"].endswith("RoleBinding")] + [
        o for o in objects if o["kind"] == "ClusterRoleBinding"
    ]
    assert bindings
    for binding in bindings:
        reference = binding["roleRef"]
        assert (reference["kind"], binding["metadata"].get("namespace"), reference["name"]) in roles
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": RELEASE, "namespace": NAMESPACE}]


@pytest.mark.parametrize(
    "arguments", [[], ["--set", "watchNamespaces={team-a}"]], ids=["cluster", "namespaced"]
)
def test_no_role_of_the_operator_is_broad(helm: Helm, arguments: list[str]) -> None:
    for role in (o for o in helm.objects(*arguments) if o["kind"] in {"Role", "ClusterRole"}):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not {"pods/exec", "pods/attach", "serviceaccounts/token"} & set(rule["resources"])
            assert not any(group == "rbac.authorization.k8s.io" for group in rule["apiGroups"])
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"] == [CERTIFICATE]
                assert rule["verbs"] == ["get", "update"]


def test_users_roles_reach_finetunejobs(helm: Helm) -> None:
    objects = helm.objects()
    view, edit = (
        pick(objects, "ClusterRole", f"{RELEASE}-view"),
        pick(objects, "ClusterRole", f"{RELEASE}-edit"),
    )
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    assert {k.removeprefix(prefix) for k in view["metadata"]["labels"] if k.startswith(prefix)} == {
        *("view", "edit", "admin"),
    }
    assert {k.removeprefix(prefix) for k in edit["metadata"]["labels"] if k.startswith(prefix)} == {
        "edit",
        "admin",
    }
    assert rights(view)["finetune.dev", "finetunejobs"] == {"get", "list", "watch"}
    assert ("finetune.dev", "finetunejobs/status") not in rights(edit)


def test_the_pod_satisfies_the_restricted_standard(helm: Helm) -> None:
    pod = pick(helm.objects(), "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_there_is_never_a_second_operator(helm: Helm) -> None:
    spec = pick(helm.objects(), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_environment_names_everything_the_operator_reads(helm: Helm) -> None:
    digest = "sha256:" + "0" * 64
    shown = environment(
        helm.objects(
            *(
                "--set",
                "trainer.image.repository=example.com/trainer",
                "--set",
                f"trainer.image.digest={digest}",
            ),
            *("--set", "trainer.prepareImage.tag=1.2.3", "--set", "trainer.pullPolicy=Always"),
            *("--set", "trainer.imagePullSecrets={a,b}", "--set", "trainer.serviceAccountName=store-reader"),
            *("--set", "progress.port=9443", "--set", "health.port=9080", "--set", "log.format=plain"),
        )
    )
    assert shown == {
        "FINETUNE_OPERATOR_NAMESPACE": "",
        "FINETUNE_WATCH_NAMESPACES": "",
        "FINETUNE_TRAINER_IMAGE": f"example.com/trainer@{digest}",
        "FINETUNE_PREPARE_IMAGE": "finetune-trainer-prepare:1.2.3",
        "FINETUNE_IMAGE_PULL_POLICY": "Always",
        "FINETUNE_IMAGE_PULL_SECRETS": "a,b",
        "FINETUNE_TRAINER_SERVICE_ACCOUNT": "store-reader",
        "FINETUNE_PROGRESS_SERVICE_URL": f"https://{RELEASE}.{NAMESPACE}.svc:9443",
        "FINETUNE_PROGRESS_PORT": "9443",
        "FINETUNE_PROGRESS_INTERVAL_SECONDS": "10",
        "FINETUNE_HEALTH_PORT": "9080",
        "FINETUNE_CERTIFICATE_SECRET": CERTIFICATE,
        "FINETUNE_CA_CONFIG_MAP": "finetune-operator-ca",
        "FINETUNE_LOG_FORMAT": "plain",
        "FINETUNE_LOG_LEVEL": "INFO",
    }


@pytest.mark.parametrize("arguments", [[], ["--set", "watchNamespaces={a,b}"]], ids=["all namespaces", "two"])
def test_the_operator_accepts_the_environment(helm: Helm, arguments: list[str]) -> None:
    shown = {**environment(helm.objects(*arguments)), "FINETUNE_OPERATOR_NAMESPACE": NAMESPACE}
    settings = load_settings(shown)
    assert settings.certificate_secret == CERTIFICATE
    assert settings.progress_host == f"{RELEASE}.{NAMESPACE}.svc"
    assert settings.watch_namespaces == (("a", "b") if arguments else ())


def test_the_service_selects_the_pod_and_its_ports(helm: Helm) -> None:
    objects = helm.objects()
    service, deployment = pick(objects, "Service"), pick(objects, "Deployment")
    template = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports == {"progress", "health"}


def test_the_certificate_secret_is_rendered_without_data(helm: Helm) -> None:
    secret = pick(helm.objects(), "Secret")
    assert secret["metadata"]["name"] == CERTIFICATE
    assert not {"data", "stringData"} & secret.keys()


@pytest.mark.parametrize(
    ("arguments", "policy"),
    [([], "keep"), (["--set", "crds.keep=false"], None)],
    ids=["kept on uninstall by default", "removed with crds.keep=false"],
)
def test_the_crd_is_installed(helm: Helm, arguments: list[str], policy: str | None) -> None:
    crd = pick(helm.objects(*arguments), "CustomResourceDefinition")
    assert crd["metadata"]["name"] == "finetunejobs.finetune.dev"
    assert crd["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == policy


ABSENT = {
    "the CRD without crds.install": ("crds.install=false", "CustomResourceDefinition"),
    "a network policy unless asked for": ("networkPolicy.enabled=false", "NetworkPolicy"),
    "a service monitor where Prometheus' CRDs are missing": (
        "metrics.serviceMonitor.enabled=true",
        "ServiceMonitor",
    ),
    "roles without rbac.create": ("rbac.create=false", "ClusterRole"),
    "an account without serviceAccount.create": ("serviceAccount.create=false", "ServiceAccount"),
}


@pytest.mark.parametrize(("value", "kind"), ABSENT.values(), ids=ABSENT.keys())
def test_not_rendered(helm: Helm, value: str, kind: str) -> None:
    assert kind not in {o["kind"] for o in helm.objects("--set", value)}


def test_the_service_monitor_scrapes_the_services_port(helm: Helm) -> None:
    objects = helm.objects(
        *(
            "--set",
            "metrics.serviceMonitor.enabled=true",
            "--set",
            "metrics.serviceMonitor.labels.release=prometheus",
        ),
        *("--api-versions", "monitoring.coreos.com/v1"),
    )
    monitor, service = pick(objects, "ServiceMonitor"), pick(objects, "Service")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_network_policy_lets_in_the_pods_that_report(helm: Helm) -> None:
    policy = pick(helm.objects("--set", "networkPolicy.enabled=true"), "NetworkPolicy")
    reports = policy["spec"]["ingress"][0]
    assert reports["from"][0]["podSelector"]["matchExpressions"] == [
        {"key": names.LABEL_JOB, "operator": "Exists"}
    ]
    assert reports["ports"] == [{"port": 8443, "protocol": "TCP"}]


REFUSED = {
    "a misspelt key": ("image.repositry=x", "repositry"),
    "an unknown block": ("imag.tag=x", "imag"),
    "a log format that does not exist": ("log.format=xml", "format"),
    "a pull policy in lower case": ("image.pullPolicy=always", "pullPolicy"),
    "a digest that is none": ("image.digest=latest", "digest"),
    "a privileged port": ("progress.port=443", "port"),
    "a namespace in capitals": ("watchNamespaces={Team-A}", "watchNamespaces"),
}


@pytest.mark.parametrize(("value", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_wrong_values_are_refused(helm: Helm, value: str, named: str) -> None:
    with pytest.raises(AssertionError) as refusal:
        helm.render("--set", value)
    assert named in str(refusal.value)
    assert "meet the specifications of the schema" in str(refusal.value)


def test_global_values_of_a_parent_chart_are_accepted(helm: Helm) -> None:
    assert helm.objects("--set", "global.imageRegistry=example.com")
