# Two images from one file:
#   docker build --target control -t reverie-control .   API, dispatcher, results, migration; no torch
#   docker build --target worker  -t reverie-worker .    cache builder and trainers; torch with CUDA
# Versions come from requirements.lock. The torch wheel of the public registry brings its own CUDA libraries,
# so the host gives only the driver. No container engine has built these images yet.

FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN groupadd --gid 10001 reverie \
    && useradd --uid 10001 --gid 10001 --create-home --home-dir /home/reverie reverie \
    && install --directory --owner=10001 --group=10001 /objects /scratch /models /publications
WORKDIR /opt/reverie
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY services services
COPY trainer_core trainer_core

FROM base AS control
RUN pip install --constraint requirements.lock ".[service,traces,trackers]"
USER 10001:10001
WORKDIR /home/reverie
EXPOSE 8484
CMD ["python", "-m", "services.api", "--host", "0.0.0.0", "--port", "8484"]

FROM base AS worker
# DeepSpeed compiles its CPU optimizer at run time when a plan offloads to the CPU.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# `jxl` reads JPEG XL and is GPL: leave it out of an image that you hand on under other terms.
RUN pip install torch==2.13.0 \
    && DS_BUILD_OPS=0 pip install --constraint requirements.lock ".[service,worker,full-rank,jxl,sources,traces]"
ENV HF_HUB_OFFLINE=1
USER 10001:10001
WORKDIR /home/reverie
CMD ["python", "-m", "services.trainer"]
