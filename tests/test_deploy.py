"""What is in deploy/kubernetes: valid for Kubernetes, and true of the program."""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from flask import Flask
from redis import Redis
from rq import Queue
from rq.executions import Execution
from rq.registry import StartedJobRegistry
from typer.testing import CliRunner
from werkzeug.serving import make_server

from image_classifier.settings import ClassifierSettings
from my_backend.backend import Backend
from my_backend.commands.cli import app as command_line
from my_backend.jobs.record import KINDS
from my_backend.jobs.rq_queue import connect, rq_queue
from my_backend.settings import Settings
from my_backend.web.app import create_app
from my_backend.web.endpoint import PREDICT_SECONDS
from testing import production

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"
OLDEST, NEWEST = "1.29", "1.37"  # of the releases that the manifests are checked against
OUR_IMAGE = "image-classifier-backend"
NOT_SETTINGS = {"HOME", "OMP_NUM_THREADS", "REDIS_PASSWORD"}
SETTINGS = {name.upper() for model in (Settings, ClassifierSettings) for name in model.model_fields}

Json = dict[str, Any]


def documents(path: Path) -> list[Json]:
    return [one for one in yaml.safe_load_all(path.read_text("utf-8")) if one]


FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml")
PATCHES = {FOLDER / "gpu" / "full-worker.yaml"}
OBJECTS = [one for path in FILES if path not in PATCHES for one in documents(path)]


def named(kind: str) -> dict[str, Json]:
    return {one["metadata"]["name"]: one for one in OBJECTS if one["kind"] == kind}


def boxes(deployment: Json) -> list[Json]:
    """Its containers."""
    return deployment["spec"]["template"]["spec"]["containers"]


PODS = {
    name: one["spec"]["template"]["spec"] for kind in ("Deployment", "StatefulSet") for name, one in named(kind).items()
}
OURS = {name: pod for name, pod in PODS.items() if pod["containers"][0]["image"] == OUR_IMAGE}


def test_every_file_is_in_a_kustomization() -> None:
    for kustomization in FOLDER.rglob("kustomization.yaml"):
        (one,) = documents(kustomization)
        listed = {*one.get("resources", []), *(patch["path"] for patch in one.get("patches", []))}
        assert listed == {path.name for path in kustomization.parent.glob("*.yaml")} - {"kustomization.yaml"}


OF_KEDA = [one for one in OBJECTS if one["apiVersion"].startswith("keda.sh/")]  # in no schema of Kubernetes


@pytest.mark.parametrize("release", [OLDEST, NEWEST])
@pytest.mark.parametrize(
    "one", [one for one in OBJECTS if one not in OF_KEDA], ids=lambda one: f"{one['kind']}-{one['metadata']['name']}"
)
def test_object_is_valid(one: Json, release: str) -> None:
    kubernetes_validate.validate(one, release, strict=True)


def test_objects_of_keda_fit_together() -> None:
    """KEDA takes nothing but texts for what a trigger looks at."""
    authentications = {one["metadata"]["name"] for one in OF_KEDA if one["kind"] == "TriggerAuthentication"}
    (namespace,) = named("Namespace")
    for one in named("ScaledObject").values():
        for trigger in one["spec"]["triggers"]:
            assert trigger["type"] == "redis"
            assert all(isinstance(value, str) for value in trigger["metadata"].values())
            assert trigger["authenticationRef"]["name"] in authentications
            assert trigger["metadata"]["address"] == f"redis.{namespace}.svc.cluster.local:6379"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_all_of_it_together_is_valid_as_the_docs_put_it(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "operate" / "scaling.md").read_text("utf-8")
    (overlay,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "components:" in block]
    here = os.path.relpath(ROOT, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(overlay.replace("image-classifier/deploy/", f"{here}/deploy/"))
    built = subprocess.run(["kubectl", "kustomize", tmp_path], check=True, capture_output=True, text=True).stdout

    objects = list(yaml.safe_load_all(built))

    (namespace,) = named("Namespace")
    assert [
        one for one in objects if one["kind"] != "Namespace" and one["metadata"].get("namespace") != namespace
    ] == []
    (models,) = [one for one in objects if one["metadata"]["name"] == "models"]
    assert models["spec"]["storageClassName"] == "your-nfs-class"
    images = {box["image"] for one in objects if one["kind"] == "Deployment" for box in boxes(one)}
    assert {image for image in images if OUR_IMAGE in image} == {f"registry.example.com/{OUR_IMAGE}:0.1.0"}
    for one in objects:
        if not one["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(one, NEWEST, strict=True)
    (full,) = [one for one in objects if one["metadata"]["name"] == "full-worker" and one["kind"] == "Deployment"]
    (container,) = boxes(full)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["command"][-1] == "full"
    settings = {one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap"}
    assert {one["configMapRef"]["name"] for one in container["envFrom"] if "configMapRef" in one} == settings


def test_gpu_patch_names_what_it_changes() -> None:
    (patch,) = documents(FOLDER / "gpu" / "full-worker.yaml")
    container = patch["spec"]["template"]["spec"]["containers"][0]
    assert container["name"] == PODS[patch["metadata"]["name"]]["containers"][0]["name"]


# --- what they say of the program -----------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    variables = [one["name"] for one in OURS[name]["containers"][0]["env"]]
    assert len(variables) == len(set(variables))
    assert set(variables) - NOT_SETTINGS <= SETTINGS
    assert {"MODEL_DIR", "CACHE_DIR", "REDIS_URL"} <= set(variables)


def test_configured_literals_are_settings_and_no_secrets() -> None:
    (one,) = documents(FOLDER / "kustomization.yaml")
    (generated,) = one["configMapGenerator"]
    names = {literal.partition("=")[0] for literal in generated["literals"]}
    assert names <= SETTINGS - {"LABEL_STUDIO_API_KEY", "BASIC_AUTH_PASS", "REDIS_URL"}


def test_settings_of_a_container_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for pod in OURS.values():
        for one in pod["containers"][0]["env"]:
            value = one.get("value", "2").replace("$(REDIS_PASSWORD)", "secret")
            monkeypatch.setenv(one["name"], value)
        settings = Settings(_env_file=None)
        assert settings.redis == "redis://:secret@redis:6379/0"
        # A Service named redis would otherwise set REDIS_PORT to an address.
        assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("name", OURS)
def test_command_exists(name: str) -> None:
    container = OURS[name]["containers"][0]
    commands = [container["command"]]
    if name != "server":
        commands.append(container["readinessProbe"]["exec"]["command"])
    for command in commands:
        assert command[:3] == ["python", "-m", "my_backend"]
        asked = CliRunner().invoke(command_line, [*command[3:], "--help"])
        assert asked.exit_code == 0, asked.output
        if "--only" in command:
            assert command[command.index("--only") + 1] in KINDS


def test_workers_are_there_for_each_kind_of_job() -> None:
    only = {pod["containers"][0]["command"][-1] for name, pod in OURS.items() if name != "server"}
    assert only == set(KINDS)


def test_ports_match() -> None:
    for name, port in (("server", 9090), ("redis", 6379)):
        (service,) = named("Service")[name]["spec"]["ports"]
        (container,) = PODS[name]["containers"][0]["ports"]
        assert (service["port"], service["targetPort"]) == (port, container["name"])
        assert container["containerPort"] == port
    environment = {one["name"]: one.get("value") for one in OURS["server"]["containers"][0]["env"]}
    assert environment["PORT"] == "9090"
    policies = [rule for one in named("NetworkPolicy").values() for rule in one["spec"].get("ingress", [])]
    assert {port["port"] for rule in policies for port in rule["ports"]} == {"http", "redis"}


def test_selectors_find_their_pods() -> None:
    labels = {}
    for kind in ("Deployment", "StatefulSet"):
        for name, one in named(kind).items():
            labels[name] = one["spec"]["template"]["metadata"]["labels"]
            assert one["spec"]["selector"]["matchLabels"].items() <= labels[name].items()
    for name, service in named("Service").items():
        assert service["spec"]["selector"].items() <= labels[name].items()
    for one in (*named("PodDisruptionBudget").values(), *named("NetworkPolicy").values()):
        selector = one["spec"].get("selector") or one["spec"]["podSelector"]
        assert any(selector.get("matchLabels", {}).items() <= found.items() for found in labels.values())
    assert {name for name, found in labels.items() if found.get("part-of") == "image-classifier"} == set(OURS)


@pytest.mark.parametrize("name", PODS)
def test_pod_has_no_more_rights_than_it_needs(name: str) -> None:
    pod = PODS[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounted = {one["name"] for one in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    if name in OURS:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {one["mountPath"]: volumes[one["name"]] for one in pod["containers"][0]["volumeMounts"]}
        environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
        claim = mounts[environment["MODEL_DIR"]]["persistentVolumeClaim"]["claimName"]
        assert named("PersistentVolumeClaim")[claim]["spec"]["accessModes"] == ["ReadWriteMany"]
        assert "emptyDir" in mounts[environment["CACHE_DIR"]], "it must be on a local disk"
        assert "emptyDir" in mounts["/tmp"]
        assert environment["HOME"] == "/tmp", "what libraries keep there"


def test_secrets_come_from_the_secret_alone() -> None:
    references = [
        one["valueFrom"]["secretKeyRef"]
        for pod in PODS.values()
        for one in pod["containers"][0]["env"]
        if "secretKeyRef" in one.get("valueFrom", {})
    ]
    assert {(one["name"], one["key"]) for one in references} == {("image-classifier", "REDIS_PASSWORD")}
    assert not named("Secret")


def test_server_has_the_time_to_answer_what_it_is_at() -> None:
    server = OURS["server"]
    assert server["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    assert server["terminationGracePeriodSeconds"] >= 5 + PREDICT_SECONDS


# --- tried ------------------------------------------------------------------------


@pytest.fixture
def redis() -> Iterator[production.Redis]:
    with production.Redis() as running:
        yield running


def test_scaling_looks_at_the_queues_of_rq(redis: production.Redis) -> None:
    settings = Settings(_env_file=None, redis_url=redis.url)
    scaled = named("ScaledObject")
    for kind in KINDS:
        spec = scaled[f"{kind}-worker"]["spec"]
        assert spec["scaleTargetRef"]["name"] in PODS
        lists = {trigger["name"]: trigger["metadata"]["listName"] for trigger in spec["triggers"]}
        assert spec["advanced"]["scalingModifiers"]["formula"] == " + ".join(lists)
        with connect(settings) as connection:
            queue = rq_queue(settings, kind, connection)
            job = queue.enqueue_call("print", args=("1",))
            assert counted(connection, lists["waiting"]) == 1
            taken, _ = Queue.dequeue_any([queue], None, connection=connection, serializer=queue.serializer) or (
                None,
                None,
            )
            assert taken
            assert taken.id == job.id
            with connection.pipeline() as pipeline:
                StartedJobRegistry(queue=queue).add_execution(execution_of(job, connection), pipeline, ttl=60)
                pipeline.execute()
            assert (counted(connection, lists["waiting"]), counted(connection, lists["running"])) == (0, 1)


def execution_of(job: Any, connection: Redis) -> Execution:
    with connection.pipeline() as pipeline:
        execution = Execution.create(job, ttl=60, pipeline=pipeline)
        pipeline.execute()
    return execution


def counted(connection: Redis, key: str) -> int:
    """As KEDA counts, whose script asks for the length that fits the key's type."""
    kind = connection.type(key).decode()  # type: ignore[union-attr]
    return int({"list": connection.llen, "zset": connection.zcard, "none": lambda key: 0}[kind](key))  # type: ignore[operator]


@pytest.mark.parametrize("password", ["", "p:ä@ss"])
def test_liveness_probe_knows_the_password(tmp_path: Path, password: str) -> None:
    given = {"basic_auth_user": "me", "basic_auth_pass": password} if password else {}
    settings = Settings(_env_file=None, model_dir=tmp_path / "models", cache_dir=tmp_path / "cache", **given)
    app: Flask = create_app(Backend(settings))
    server = make_server("127.0.0.1", 0, app)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    command = OURS["server"]["containers"][0]["livenessProbe"]["exec"]["command"]
    assert command[0] == "python"
    environment = {"PORT": str(server.port), "BASIC_AUTH_USER": "me" if password else "", "BASIC_AUTH_PASS": password}
    environment |= {"PYTHONPATH": str(ROOT)}

    def probe(**changed: str) -> int:
        run = [sys.executable, *command[1:]]
        return subprocess.run(run, env=environment | changed, capture_output=True, check=False).returncode

    try:
        assert probe() == 0
        if password:
            assert probe(BASIC_AUTH_PASS=f"{password}\n") == 0, "as from a file, in a Secret"
            assert probe(BASIC_AUTH_PASS="wrong") == 1
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert probe() == 1, "nobody answers"


def test_docs_name_the_secret_and_every_folder() -> None:
    text = (ROOT / "docs" / "operate" / "scaling.md").read_text("utf-8")
    assert "create secret generic image-classifier" in text
    for folder in ("deploy/kubernetes", "deploy/kubernetes/keda", "deploy/kubernetes/gpu"):
        assert folder in text
    keys = set(re.findall(r"--from-literal=(\w+)=", text))
    assert keys - {"REDIS_PASSWORD"} <= SETTINGS
    assert "REDIS_PASSWORD" in keys
