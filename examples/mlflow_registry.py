"""Registers every published version in MLflow: its metrics and files, and the alias `live` for the live one.

pip install mlflow-skinny
PUBLISHED_HOOK=examples.mlflow_registry:register MLFLOW_TRACKING_URI=http://localhost:5000 make start
"""

import mlflow
from mlflow import MlflowClient

from my_backend.published_hook.published import Published


def register(published: Published) -> None:
    client, model = MlflowClient(), f"project-{published.project}"
    if not client.search_registered_models(f"name='{model}'"):
        client.create_registered_model(model, description=published.title)
    known = {one.tags.get("version"): one.version for one in client.search_model_versions(f"name='{model}'")}
    number = known.get(published.version) or _log(client, model, published)
    if published.is_live:
        client.set_registered_model_alias(model, "live", number)


def _log(client: MlflowClient, model: str, published: Published) -> str:
    """Makes a run and a version of the registered model; returns MLflow's number of that version."""
    mlflow.set_experiment(model)
    with mlflow.start_run(run_name=published.version, description=published.card) as run:
        mlflow.log_metrics(published.metrics)
        for step, epoch in enumerate(published.epochs):
            found = {"loss": epoch.loss, "epoch_accuracy": epoch.accuracy}
            mlflow.log_metrics({name: value for name, value in found.items() if value is not None}, step)
        mlflow.log_artifacts(str(published.folder), "model")
    tags = {"version": published.version, "held_back": published.held_back, "page": published.url}
    source = f"{run.info.artifact_uri}/model"
    return client.create_model_version(model, source, run.info.run_id, tags, description=published.card).version
