# lipsync_jax on the processor: the web page on port 7860 (docs/containers.md).
FROM python:3.12-slim-bookworm

# OpenCV and MediaPipe load these libraries; pip cannot install them.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libegl1 libgl1 libgles2 libglib2.0-0 libsm6 libxext6 \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY lipsync_jax ./lipsync_jax
RUN pip install --no-cache-dir ".[app,openvino,sign]"

RUN useradd --create-home --uid 10001 lipsync
USER lipsync
WORKDIR /home/lipsync
ENV LIPSYNC_JAX_CACHE=/home/lipsync/cache PYTHONUNBUFFERED=1

EXPOSE 7860
# The page ends on Ctrl-C, not on the signal that docker sends by default.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=5)"]
CMD ["lipsync", "app", "--host", "0.0.0.0", "--port", "7860"]
