"""What the chart renders: rights, pod, environment, and the objects behind options."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api import names
from finetune_operator.hub_access import HUB_VARIABLES, CABundle, HubAccess
from finetune_operator.settings import load_settings
from tests.integration.chart.conftest import NAMESPACE, RELEASE, Helm, pick

CERTIFICATE = f"{RELEASE}-certificate"
IDENTITY, UNINSTALL = f"{RELEASE}-identity", f"{RELEASE}-uninstall"
JOB_RIGHTS = {
    ("finetune.dev", "finetunejobs"): {"get", "list", "watch", "patch", "delete"},
    ("finetune.dev", "finetunejobs/status"): {"update"},
    ("finetune.dev", "finetunejobs/finalizers"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("", "pods"): {"list", "watch"},
    ("", "configmaps"): {"get", "create", "patch", "delete"},
    ("", "services"): {"get", "create", "patch", "delete"},
    ("", "events"): {"create", "list"},
    ("kueue.x-k8s.io", "workloads"): {"list"},
}
LEASE_RIGHTS = {("coordination.k8s.io", "leases"): {"get", "update"}}
IDENTITY_RIGHTS = {("", "secrets"): {"get", "update"}} | LEASE_RIGHTS
UNINSTALL_RIGHTS = {("finetune.dev", "finetunejobs"): {"get", "list", "patch"}}
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


def is_hook(manifest: dict[str, Any]) -> bool:
    return "helm.sh/hook" in manifest["metadata"].get("annotations", {})


def roles(objects: list[dict[str, Any]]) -> dict[tuple[str | None, str], dict[tuple[str, str], set[str]]]:
    """Rights by namespace (None: all) and name of the role; those of the cluster's users are left out."""
    return {
        (o["metadata"].get("namespace"), o["metadata"]["name"]): rights(o)
        for o in objects
        if o["kind"] in {"Role", "ClusterRole"} and not o["metadata"]["name"].endswith(("-view", "-edit"))
    }


def test_cluster_mode_grants_exactly_what_the_operator_uses(helm: Helm) -> None:
    assert roles(helm.objects()) == {
        (None, RELEASE): JOB_RIGHTS | REVIEW_RIGHTS,
        (NAMESPACE, IDENTITY): IDENTITY_RIGHTS,
        (None, UNINSTALL): UNINSTALL_RIGHTS,
        (NAMESPACE, f"{UNINSTALL}-lease"): LEASE_RIGHTS,
    }


def test_namespaced_mode_needs_no_cluster_role_at_all(helm: Helm) -> None:
    objects = helm.objects("--set", "watchNamespaces={team-a,team-b}")
    assert not {"ClusterRole", "ClusterRoleBinding"} & {o["kind"] for o in objects}
    assert roles(objects) == {
        ("team-a", RELEASE): JOB_RIGHTS,
        ("team-b", RELEASE): JOB_RIGHTS,
        (NAMESPACE, IDENTITY): IDENTITY_RIGHTS,
        ("team-a", UNINSTALL): UNINSTALL_RIGHTS,
        ("team-b", UNINSTALL): UNINSTALL_RIGHTS,
        (NAMESPACE, f"{UNINSTALL}-lease"): LEASE_RIGHTS,
    }
    assert environment(objects)["FINETUNE_WATCH_NAMESPACES"] == "team-a,team-b"


AUTHENTICATION = {
    "all namespaces: the API server is asked": ([], "TokenReview", {RELEASE, UNINSTALL}),
    "some namespaces: signatures are checked": (["watchNamespaces={a}"], "Jwt", set[str]()),
    "some namespaces, and yet the API server is asked": (
        ["watchNamespaces={a}", "progress.authentication=TokenReview"],
        "TokenReview",
        {RELEASE},
    ),
    "all namespaces, and yet signatures are checked": (
        ["progress.authentication=Jwt"],
        "Jwt",
        {RELEASE, UNINSTALL},
    ),
}


@pytest.mark.parametrize(("values", "shown", "names"), AUTHENTICATION.values(), ids=AUTHENTICATION.keys())
def test_token_reviews_are_granted_where_they_are_used(
    helm: Helm, values: list[str], shown: str, names: set[str]
) -> None:
    objects = helm.objects(*(word for value in values for word in ("--set", value)))
    granted = {name: each for (namespace, name), each in roles(objects).items() if namespace is None}
    assert environment(objects)["FINETUNE_PROGRESS_AUTH"] == shown
    assert set(granted) == names
    reviewers = {name for name, each in granted.items() if REVIEW_RIGHTS.keys() & each.keys()}
    assert reviewers == ({RELEASE} if shown == "TokenReview" else set())


def test_workloads_are_listed_only_where_there_is_a_kueue(helm: Helm) -> None:
    granted = roles(helm.objects("--set", "kueue.enabled=false"))[None, RELEASE]
    assert (
        granted
        == {key: value for key, value in JOB_RIGHTS.items() if key[0] != "kueue.x-k8s.io"} | REVIEW_RIGHTS
    )


def test_every_binding_names_an_existing_role_and_the_account_it_is_for(helm: Helm) -> None:
    for arguments in ([], ["--set", "watchNamespaces={team-a,team-b}"]):
        objects = helm.objects(*arguments)
        found = {(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects}
        bindings = [o for o in objects if o["kind"] in {"RoleBinding", "ClusterRoleBinding"}]
        assert bindings
        for binding in bindings:
            reference, account = binding["roleRef"], UNINSTALL if is_hook(binding) else RELEASE
            assert (reference["kind"], binding["metadata"].get("namespace"), reference["name"]) in found
            assert binding["subjects"] == [
                {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
            ]
            assert ("ServiceAccount", NAMESPACE, account) in found


@pytest.mark.parametrize(
    "arguments", [[], ["--set", "watchNamespaces={team-a}"]], ids=["cluster", "namespaced"]
)
def test_no_role_is_broad(helm: Helm, arguments: list[str]) -> None:
    for role in (o for o in helm.objects(*arguments) if o["kind"] in {"Role", "ClusterRole"}):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not {"pods/exec", "pods/attach", "serviceaccounts/token"} & set(rule["resources"])
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
            assert not any(group == "rbac.authorization.k8s.io" for group in rule["apiGroups"])
            for resource, name in (("secrets", CERTIFICATE), ("leases", RELEASE)):
                if resource in rule["resources"]:
                    assert (rule["resources"], rule["resourceNames"]) == ([resource], [name])
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


@pytest.mark.parametrize("kind", ["Deployment", "Job"], ids=["the operator", "the hook"])
def test_the_pods_satisfy_the_restricted_standard(helm: Helm, kind: str) -> None:
    pod = pick(helm.objects(), kind)["spec"]["template"]["spec"]
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


def test_probes_ask_whether_it_is_alive_before_whether_it_is_ready(helm: Helm) -> None:
    container = pick(helm.objects(), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    paths = {
        name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")
    }
    # One that waits for the Lease is not ready for as long as another one holds it, and must not be killed for that.
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    assert "lifecycle" not in container


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
            *("--set", "trainer.trustRemoteCode=true", "--set", "lease.durationSeconds=15"),
            *(
                "--set",
                "passThrough.labels={example.com/team,cost}",
                "--set",
                "passThrough.annotations={note}",
            ),
            *("--set", "trainer.hub.env.HF_ENDPOINT=https://hub.example.com"),
            *("--set", "trainer.hub.caBundle.configMapName=corporate"),
            *("--set", "progress.port=9443", "--set", "health.port=9080", "--set", "log.format=plain"),
            *("--set", "progress.keysConfigMap=keys", "--set", "progress.issuer=https://issuer"),
        )
    )
    assert shown == {
        "FINETUNE_OPERATOR_NAMESPACE": "",
        "FINETUNE_POD_NAME": "",
        "FINETUNE_WATCH_NAMESPACES": "",
        "FINETUNE_LEASE_NAME": RELEASE,
        "FINETUNE_LEASE_SECONDS": "15",
        "FINETUNE_TRAINER_IMAGE": f"example.com/trainer@{digest}",
        "FINETUNE_PREPARE_IMAGE": "finetune-trainer-prepare:1.2.3",
        "FINETUNE_IMAGE_PULL_POLICY": "Always",
        "FINETUNE_IMAGE_PULL_SECRETS": "a,b",
        "FINETUNE_TRAINER_SERVICE_ACCOUNT": "store-reader",
        "FINETUNE_TRUST_REMOTE_CODE": "true",
        "FINETUNE_HUB_ENVIRONMENT": '{"HF_ENDPOINT":"https://hub.example.com"}',
        "FINETUNE_HUB_CA_CONFIG_MAP": "corporate",
        "FINETUNE_HUB_CA_KEY": "ca.crt",
        "FINETUNE_PASS_THROUGH_LABELS": "example.com/team,cost",
        "FINETUNE_PASS_THROUGH_ANNOTATIONS": "note",
        "FINETUNE_DEFAULT_STORE": "",
        "FINETUNE_PROGRESS_SERVICE_URL": f"https://{RELEASE}.{NAMESPACE}.svc:9443",
        "FINETUNE_PROGRESS_PORT": "9443",
        "FINETUNE_PROGRESS_INTERVAL_SECONDS": "10",
        "FINETUNE_PROGRESS_AUTH": "TokenReview",
        "FINETUNE_PROGRESS_KEYS_PATH": "/etc/finetune-operator/keys/keys.json",
        "FINETUNE_PROGRESS_ISSUER": "https://issuer",
        "FINETUNE_HEALTH_PORT": "9080",
        "FINETUNE_CERTIFICATE_SECRET": CERTIFICATE,
        "FINETUNE_CA_CONFIG_MAP": "finetune-operator-ca",
        "FINETUNE_LOG_FORMAT": "plain",
        "FINETUNE_LOG_LEVEL": "INFO",
    }


def test_the_keys_are_mounted_where_the_operator_looks_for_them(helm: Helm) -> None:
    objects = helm.objects("--set", "progress.keysConfigMap=keys", "--set", "progress.issuer=https://issuer")
    pod = pick(objects, "Deployment")["spec"]["template"]["spec"]
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    path = environment(objects)["FINETUNE_PROGRESS_KEYS_PATH"]
    assert path == f"{mounts['keys']}/keys.json"
    assert {"name": "keys", "configMap": {"name": "keys"}} in pod["volumes"]


def test_a_default_store_reaches_the_operator_whole(helm: Helm) -> None:
    store = {"endpoint": "https://s3.example.com", "credentialsSecretRef": {"name": "keys"}}
    value = json.dumps({"uri": "s3://models/tuned/", "store": store})
    shown = environment(helm.objects("--set-json", f"defaultStore={value}"))
    settings = load_settings({**shown, "FINETUNE_OPERATOR_NAMESPACE": NAMESPACE})
    assert settings.default_store is not None
    assert settings.default_store.uri == "s3://models/tuned"
    assert settings.default_store.store.model_dump(mode="json", exclude_defaults=True) == store


def test_how_hubs_are_reached_gets_to_the_operator_whole(helm: Helm) -> None:
    variables = {name: f"https://{name.lower()}.example.com:1/a,b" for name in HUB_VARIABLES}
    bundle = {"configMapName": "corporate", "key": "bundle.pem"}
    value = json.dumps({"env": variables, "caBundle": bundle})
    shown = environment(helm.objects("--set-json", f"trainer.hub={value}"))
    settings = load_settings({**shown, "FINETUNE_OPERATOR_NAMESPACE": NAMESPACE})
    assert settings.pods.hub == HubAccess(variables, CABundle("corporate", "bundle.pem"))


def test_the_hook_removes_finalizers_with_the_operators_image_and_settings(helm: Helm) -> None:
    arguments = ("--set", "image.repository=example.com/operator", "--set", "watchNamespaces={a,b}")
    objects = helm.objects(*arguments, "--set", "imagePullSecrets={registry}")
    hook, operator = (pick(objects, kind)["spec"]["template"]["spec"] for kind in ("Job", "Deployment"))
    (container,), (reference,) = hook["containers"], operator["containers"]
    assert container["command"] == ["python", "-m", "finetune_operator.uninstall"]
    for name in ("image", "imagePullPolicy", "env"):
        assert container[name] == reference[name]
    assert hook["imagePullSecrets"] == operator["imagePullSecrets"]
    assert hook["serviceAccountName"] == UNINSTALL


def test_the_hook_comes_first_and_leaves_nothing(helm: Helm) -> None:
    hooks = [o for o in helm.objects() if is_hook(o)]
    annotations = {o["kind"]: o["metadata"]["annotations"] for o in hooks}
    assert {each["helm.sh/hook"] for each in annotations.values()} == {"pre-delete"}
    for each in annotations.values():
        assert each["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    weights = {kind: int(each["helm.sh/hook-weight"]) for kind, each in annotations.items()}
    assert weights.pop("Job") > max(weights.values())


def test_the_hooks_pod_is_not_taken_for_the_operators(helm: Helm) -> None:
    objects = helm.objects("--set", "networkPolicy.enabled=true")
    labels = pick(objects, "Job")["spec"]["template"]["metadata"]["labels"]
    policy = pick(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    for selector in (pick(objects, "Service")["spec"]["selector"], policy):
        assert not selector.items() <= labels.items()


def test_without_roles_of_its_own_the_hook_uses_the_operators(helm: Helm) -> None:
    objects = helm.objects("--set", "rbac.create=false", "--set", "serviceAccount.name=given")
    assert pick(objects, "Job")["spec"]["template"]["spec"]["serviceAccountName"] == "given"


@pytest.mark.parametrize("arguments", [[], ["--set", "watchNamespaces={a,b}"]], ids=["all namespaces", "two"])
def test_the_operator_accepts_the_environment(helm: Helm, arguments: list[str]) -> None:
    shown = {**environment(helm.objects(*arguments)), "FINETUNE_OPERATOR_NAMESPACE": NAMESPACE}
    settings = load_settings(shown)
    assert settings.certificate_secret == CERTIFICATE
    assert settings.progress_host == f"{RELEASE}.{NAMESPACE}.svc"
    assert settings.watch_namespaces == (("a", "b") if arguments else ())
    assert settings.pods.hub == HubAccess()


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


def test_the_lease_is_rendered_without_a_holder(helm: Helm) -> None:
    objects = helm.objects()
    lease = pick(objects, "Lease")
    assert lease["metadata"]["name"] == environment(objects)["FINETUNE_LEASE_NAME"]
    assert "spec" not in lease


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
    "a hook without uninstallHook.enabled": ("uninstallHook.enabled=false", "Job"),
}


@pytest.mark.parametrize(("value", "kind"), ABSENT.values(), ids=ABSENT.keys())
def test_not_rendered(helm: Helm, value: str, kind: str) -> None:
    assert kind not in {o["kind"] for o in helm.objects("--set", value)}


def test_no_account_is_rendered_without_service_account_create(helm: Helm) -> None:
    objects = helm.objects("--set", "serviceAccount.create=false")
    assert [o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"] == [UNINSTALL]


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
    "a way to authenticate that does not exist": ("progress.authentication=None", "authentication"),
    "keys without their issuer": ("progress.keysConfigMap=keys", "issuer"),
    "an issuer without its keys": ("progress.issuer=https://issuer", "keysConfigMap"),
    "a default store that is no store": ("defaultStore.uri=https://models", "uri"),
    "a misspelt field of the default store": ("defaultStore.store.endpont=https://s3", "endpont"),
    "a variable that loads code": ("trainer.hub.env.LD_PRELOAD=x.so", "LD_PRELOAD"),
    "a hub's token in the open": ("trainer.hub.env.HF_TOKEN=hf_x", "HF_TOKEN"),
    "a proxy's password in the open": ("trainer.hub.env.HTTPS_PROXY=http://me:secret@proxy", "HTTPS_PROXY"),
    "authorities in a path": ("trainer.hub.caBundle.key=../ca.crt", "key"),
    "a label of the operator's passed through": ("passThrough.labels={finetune.dev/job-uid}", "labels"),
    "a label of Kueue's passed through": ("passThrough.labels={kueue.x-k8s.io/queue-name}", "labels"),
    "an annotation of the operator's passed through": (
        "passThrough.annotations={finetune.dev/spec-digest}",
        "annotations",
    ),
    "a lease shorter than its renewals": ("lease.durationSeconds=1", "durationSeconds"),
}


@pytest.mark.parametrize(("value", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_wrong_values_are_refused(helm: Helm, value: str, named: str) -> None:
    with pytest.raises(AssertionError) as refusal:
        helm.render("--set", value)
    assert named in str(refusal.value)
    assert "meet the specifications of the schema" in str(refusal.value)


def test_global_values_of_a_parent_chart_are_accepted(helm: Helm) -> None:
    assert helm.objects("--set", "global.imageRegistry=example.com")
