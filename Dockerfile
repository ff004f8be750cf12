# Two images from one file: the gateway (the last stage, so the one that is built when none is named) and the trainer.
#
#     docker build -t dropgate:0.1.0 .                                       the gateway, for CPUs
#     docker build -t dropgate:0.1.0-cuda --build-arg FLAVOR=cuda .          the same, for NVIDIA GPUs; cu126 for older drivers
#     docker build -t dropgate-trainer:0.1.0 --target trainer .
#     docker build -t dropgate-baked --target baked --build-context model=models/finetuned/mine --build-arg MODEL=finetuned/mine .
#
# Every package but torch is of the version in deploy/image/packages.lock, the part of requirements.lock that images need,
# or the build fails. Without a Docker engine, and behind a mirror of packages: scripts/build-image-offline.sh.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# Layers, from what changes least: torch; every other package; the source, of kilobytes. An edit of the source builds the
# last anew, in seconds, and that is what a node pulls. Each is a tree of its own, and the images lay them together.
FROM ${PYTHON_IMAGE} AS installer
# pip's own variables: a mirror, a folder of wheels, the certificate of a proxy that opens TLS (older builders of images
# pass none on to a stage that is built on this one, so they stand there again)
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
# pip stands beside what it installs into, so that no image has it
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_PYTHON=/opt/dropgate/bin/python
RUN python3 -m venv /opt/installer && python3 -m venv --without-pip /opt/dropgate
COPY deploy/image/torch.sh /torch.sh
ARG FLAVOR=cpu
ARG TORCH=2.13.0
ARG TORCH_INDEX
# torch first, by itself: left to the resolver, an image for CPUs would get gigabytes of CUDA
RUN sh /torch.sh "$FLAVOR" "$TORCH" "$TORCH_INDEX" /opt/installer/bin/pip install --quiet --no-deps
WORKDIR /source

# What pyproject.toml says of packages, without the rest of it
FROM ${PYTHON_IMAGE} AS wanted
COPY pyproject.toml deploy/image/dependencies.py /
ARG EXTRAS=ask,bucket,otel,quantized,openvino
ARG TRAINER_EXTRAS=train,plots,tensorboard
RUN mkdir /wanted \
    && python3 /dependencies.py /pyproject.toml "$EXTRAS" >/wanted/gateway.txt \
    && python3 /dependencies.py /pyproject.toml "$TRAINER_EXTRAS" >/wanted/trainer.txt \
    && touch --date @0 /wanted/gateway.txt /wanted/trainer.txt

FROM installer AS gateway-packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
COPY deploy/image/packages.lock ./
COPY --from=wanted /wanted/gateway.txt wanted.txt
RUN /opt/installer/bin/pip install --quiet --prefix /packages -c packages.lock -r wanted.txt
COPY deploy/image/installed.py ./
RUN /opt/dropgate/bin/python installed.py packages.lock /packages

FROM installer AS trainer-packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
COPY deploy/image/packages.lock ./
COPY --from=wanted /wanted/trainer.txt wanted.txt
RUN /opt/installer/bin/pip install --quiet --prefix /packages -c packages.lock -r wanted.txt
COPY deploy/image/installed.py ./
RUN /opt/dropgate/bin/python installed.py packages.lock /packages

FROM installer AS source
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY trainer trainer
RUN /opt/installer/bin/pip install --quiet --prefix /installed --no-deps .

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
COPY --from=installer /opt/dropgate /opt/dropgate

FROM runtime AS trainer
COPY --from=trainer-packages /packages /opt/dropgate
COPY --from=source /installed /opt/dropgate
RUN trainer --help >/dev/null
USER 10001:10001
ENTRYPOINT ["trainer"]
CMD ["--help"]
# the labels are last: a new revision builds nothing anew
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dropgate-trainer" \
      org.opencontainers.image.description="Fine-tunes, evaluates, quantizes and publishes models onto Dropgate's volume" \
      org.opencontainers.image.source="https://github.com/dropgate/dropgate" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

FROM runtime AS served
COPY --from=gateway-packages /packages /opt/dropgate
COPY deploy/image/health.py /opt/dropgate/health.py
COPY --from=source /installed /opt/dropgate
RUN gateway --version
ENV DROPGATE_HOST=0.0.0.0 DROPGATE_PORT=8001 DROPGATE_MODELS_DIR=/app/models DROPGATE_STATE_DIR=/app/state DROPGATE_LOG_FORMAT=json
USER 10001:10001
EXPOSE 8001
# SIGTERM drains; whoever stops it gives it 10 seconds more than --drain-timeout
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "/opt/dropgate/health.py"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dropgate" \
      org.opencontainers.image.description="Drop a model directory onto a volume, and it serves" \
      org.opencontainers.image.source="https://github.com/dropgate/dropgate" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

# A model in the image, where its volume would lie: for a machine without one. Kubernetes and bind mounts hide it; an
# init container of this image may copy it to a volume.
FROM served AS baked
ARG MODEL=base/model
# hadolint ignore=DL3022
COPY --from=model --chown=10001:10001 . /app/models/${MODEL}/
RUN gateway check "/app/models/$MODEL"

FROM served AS gateway
