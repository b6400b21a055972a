"""The default limits of a process fit into the memory that compose and Kubernetes give its container."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from image_classifier.settings import ClassifierSettings
from label_studio_format.labeling_config import REMEMBERED_BYTES
from my_backend.projects.registry import MOST_CONFIG_CHARACTERS
from my_backend.web.middleware.parsing import MOST_OF_ALL_BODIES

ROOT = Path(__file__).parents[1]
OUR_IMAGE = "image-classifier-backend"
UNITS = {"m": 1 << 20, "g": 1 << 30, "Mi": 1 << 20, "Gi": 1 << 30}
# A server's own memory without images and bodies, at most, during an hour of load: docs/operate/production.md.
MEASURED = 780_000_000


def in_bytes(quantity: str) -> int:
    unit = quantity.lstrip("0123456789")
    return int(quantity.removesuffix(unit)) * UNITS[unit]


def memory_limits() -> dict[str, int]:
    """Of each container that runs our program and has a limit, by where it is described."""
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    limits = {
        f"compose: {name}": in_bytes(service["mem_limit"])
        for name, service in services.items()
        if service.get("image") == OUR_IMAGE and "mem_limit" in service
    }
    for path in (ROOT / "deploy" / "kubernetes").glob("*.yaml"):
        for one in filter(None, yaml.safe_load_all(path.read_text("utf-8"))):
            for container in one["spec"]["template"]["spec"]["containers"] if one["kind"] == "Deployment" else ():
                if container["image"] == OUR_IMAGE:
                    limit = in_bytes(container["resources"]["limits"]["memory"])
                    limits[f"Kubernetes: {one['metadata']['name']}"] = limit
    return limits


LIMITS = memory_limits()


@pytest.mark.parametrize("container", LIMITS)
def test_default_limits_fit_into_the_container(container: str) -> None:
    """Otherwise the system kills the process although each request stays within its limit."""
    needed = MEASURED + ClassifierSettings(_env_file=None).max_image_memory
    if container.endswith("server"):
        configs = REMEMBERED_BYTES + MOST_CONFIG_CHARACTERS
        needed += MOST_OF_ALL_BODIES + configs
    assert needed <= LIMITS[container]


def test_what_takes_requests_or_learns_has_a_limit() -> None:
    compose = {name for name in LIMITS if name.startswith("compose")}
    kubernetes = LIMITS.keys() - compose

    assert compose == {"compose: server", "compose: head-worker"}
    assert kubernetes == {"Kubernetes: server", "Kubernetes: head-worker", "Kubernetes: full-worker"}
