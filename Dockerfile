# A server of the starter: docker build -t lstm-sentiment . ; docs/guides/serving.md says how to run it.
FROM python:3.13-slim-bookworm AS build
# hadolint ignore=DL3008 # the base image sets the release; its security updates are wanted
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY scripts/constraints.txt scripts/constraints.txt
COPY lstm_sentiment lstm_sentiment
# The index of PyTorch's builds for CPUs makes the image a fraction of the size: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL=
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --constraint scripts/constraints.txt '.[serve]'

FROM python:3.13-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin serve
COPY --from=build /opt/venv /opt/venv
# The root file system may be read-only: nothing is written.
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 LSTM_SENTIMENT_CACHE=/tmp/cache
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-c", \
    "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
ENTRYPOINT ["lstm-sentiment", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["starter"]
