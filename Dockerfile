# syntax=docker/dockerfile:1
# docker build -t shoal .
# Another build of torch, say the one for CPUs alone: --build-arg TORCH_INDEX=URL of its package index.

FROM python:3.12-slim-bookworm AS build
ARG TORCH_INDEX=""
# Debian's versions change with its point releases, whose older packages go away.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends cmake g++ make \
 && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/shoal
WORKDIR /src
COPY constraints.txt ./
RUN /opt/shoal/bin/pip install --no-cache-dir --constraint constraints.txt \
    ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY csrc csrc
COPY shoal shoal
RUN /opt/shoal/bin/pip install --no-cache-dir --constraint constraints.txt '.[server]'

FROM python:3.12-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home shoal \
 && install --directory --owner=shoal /data
COPY --from=build /opt/shoal /opt/shoal
ENV PATH=/opt/shoal/bin:$PATH \
    HF_HOME=/data/hub \
    XDG_CACHE_HOME=/data/cache
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
ENTRYPOINT ["shoal"]
CMD ["serve", "--host", "0.0.0.0", "--data-dir", "/data", "--log-format", "json"]
