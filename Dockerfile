# Two images from one file: the gateway (the last stage, so the one that is built when none is named) and the trainer.
#
#     docker build -t dropgate:0.1.0 .                                       the gateway, for CPUs
#     docker build -t dropgate:0.1.0-cuda --build-arg FLAVOR=cuda .          the same, for NVIDIA GPUs
#     docker build -t dropgate-trainer:0.1.0 --target trainer .
#     docker build -t dropgate-baked --target baked --build-context model=models/finetuned/mine --build-arg MODEL=finetuned/mine .
#
# Every package but torch is of the version in requirements.lock, or the build fails. Without a Docker engine, and behind
# a mirror of packages: scripts/build-image-offline.sh.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS installer
# pip's own variables: a mirror, a folder of wheels, the certificate of a proxy that opens TLS (older builders of images
# pass none on to a stage that is built on this one, so they stand there again)
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ARG FLAVOR=cpu
ARG TORCH=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/dropgate
# torch first, by itself: left to the resolver, an image for CPUs would get gigabytes of CUDA
RUN case "$FLAVOR" in \
      cpu) /opt/dropgate/bin/pip install --quiet "torch==$TORCH+cpu" \
           || /opt/dropgate/bin/pip install --quiet --index-url "$TORCH_INDEX" "torch==$TORCH" ;; \
      cuda) /opt/dropgate/bin/pip install --quiet "torch==$TORCH" ;; \
      *) echo "FLAVOR=$FLAVOR: expected cpu or cuda" >&2; exit 2 ;; \
    esac
WORKDIR /source
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY gateway gateway
COPY trainer trainer
COPY deploy/image/installed.py /installed.py

FROM installer AS gateway-installed
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ARG EXTRAS=ask,otel,quantized,openvino
RUN /opt/dropgate/bin/pip install --quiet -c requirements.lock ".[$EXTRAS]" \
    && /opt/dropgate/bin/python /installed.py requirements.lock \
    && /opt/dropgate/bin/pip uninstall --quiet --yes pip

FROM installer AS trainer-installed
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ARG TRAINER_EXTRAS=train,plots,tensorboard
RUN /opt/dropgate/bin/pip install --quiet -c requirements.lock ".[$TRAINER_EXTRAS]" \
    && /opt/dropgate/bin/python /installed.py requirements.lock \
    && /opt/dropgate/bin/pip uninstall --quiet --yes pip

# What both images run on: a user without rights, a home that may be read-only, and `tar`, which `kubectl cp` needs.
# uid 10001 is given as a number too, for Kubernetes' runAsNonRoot reads no /etc/passwd.
FROM ${PYTHON_IMAGE} AS runtime
RUN tar --version >/dev/null \
    && groupadd --gid 10001 dropgate \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin dropgate \
    && mkdir -p /app/models/base /app/models/finetuned /app/state \
    && chown -R 10001:10001 /app \
    && chmod -R 2775 /app/models
ENV PATH=/opt/dropgate/bin:$PATH HOME=/tmp USER=dropgate PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /app
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.source="https://github.com/dropgate/dropgate" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

FROM runtime AS trainer
LABEL org.opencontainers.image.title="dropgate-trainer" \
      org.opencontainers.image.description="Fine-tunes, evaluates, quantizes and publishes models onto Dropgate's volume"
COPY --from=trainer-installed /opt/dropgate /opt/dropgate
RUN trainer --help >/dev/null
USER 10001:10001
ENTRYPOINT ["trainer"]
CMD ["--help"]

FROM runtime AS served
LABEL org.opencontainers.image.title="dropgate" \
      org.opencontainers.image.description="Drop a model directory onto a volume, and it serves"
COPY --from=gateway-installed /opt/dropgate /opt/dropgate
COPY deploy/image/health.py /opt/dropgate/health.py
RUN gateway --version
ENV DROPGATE_HOST=0.0.0.0 DROPGATE_PORT=8001 DROPGATE_MODELS_DIR=/app/models DROPGATE_STATE_DIR=/app/state DROPGATE_LOG_FORMAT=json
USER 10001:10001
EXPOSE 8001
# SIGTERM drains; whoever stops it gives it 10 seconds more than --drain-timeout
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "/opt/dropgate/health.py"]
ENTRYPOINT ["gateway"]
CMD ["serve"]

# A model in the image, where its volume would lie: for a machine without one. Kubernetes and bind mounts hide it; an
# init container of this image may copy it to a volume.
FROM served AS baked
ARG MODEL=base/model
# hadolint ignore=DL3022
COPY --from=model --chown=10001:10001 . /app/models/${MODEL}/
RUN gateway check "/app/models/$MODEL"

FROM served AS gateway
