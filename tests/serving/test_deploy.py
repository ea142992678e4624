"""The examples of deploy/ hold together."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import yaml

import xlm

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def test_the_function_answers() -> None:
    spec = importlib.util.spec_from_file_location("function", DEPLOY / "function.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    good = module.handler({"body": json.dumps({"texts": ["hello", "你好"]})})
    assert good["statusCode"] == 200
    np.testing.assert_allclose(json.loads(good["body"])["embeddings"], xlm.load().embed(["hello", "你好"]), atol=2e-5)
    for body in ("", "{", '{"texts": "x"}', '{"texts": [1]}', json.dumps({"texts": ["word " * 600]})):
        assert module.handler({"body": body})["statusCode"] == 422


def test_manifests_are_yaml_with_probes_that_exist() -> None:
    deployment, service = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8"))
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert {container[p]["httpGet"]["path"] for p in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        "/ready", "/health",
    }  # fmt: skip
    (keys,) = container["env"]
    assert keys["name"] == "XLM_API_KEYS" and not keys["valueFrom"]["secretKeyRef"].get("optional")
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == "/metrics" and "--open-metrics" in container["args"]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["containerPort"]


def test_images_run_as_a_user_and_check_themselves() -> None:
    for name in ("Dockerfile.cpu", "Dockerfile.cuda"):
        text = (DEPLOY / name).read_text("utf-8")
        assert "USER xlm" in text and "HEALTHCHECK" in text and "constraints.txt" in text
        assert text.index("install -y --no-install-recommends g++") < text.index("pip install")  # for the kernels
    assert {".git", ".venv"} <= set((DEPLOY.parent / ".dockerignore").read_text("utf-8").split())


def test_the_image_for_gpus_can_compile_where_it_runs() -> None:
    last = (DEPLOY / "Dockerfile.cuda").read_text("utf-8").rpartition("\nFROM ")[2]
    assert "gcc libc6-dev" in last[: last.index("USER xlm")]
