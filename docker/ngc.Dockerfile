# The server on NVIDIA's own Triton, with its native ONNX Runtime backend:
#   docker build -f docker/ngc.Dockerfile -t styleclip-server-ngc .
#   docker build -f docker/ngc.Dockerfile -t styleclip-server-ngc --build-arg TORCH=1 .
#
# TORCH=1 adds PyTorch with this project's kernels, as server.Dockerfile's target gpu has them.
# BASE is Triton 26.07 or later (Ubuntu 24.04, CPython 3.12) and sets the versions of Triton, CUDA
# and ONNX Runtime. The model repository is that of server.Dockerfile; the supervisor starts this
# Triton instead of the one from PyPI.
ARG BASE=nvcr.io/nvidia/tritonserver:26.07-py3

FROM ${BASE} AS build
WORKDIR /build
COPY requirements/image-tools.txt requirements/
# NVIDIA's image has pip, but maybe not ensurepip.
RUN python3 -m venv --without-pip tools \
    && python3 -m pip --python tools/bin/python3 install --no-cache-dir \
        -r requirements/image-tools.txt \
    && python3 -m venv --without-pip /opt/styleclip
ENV PATH=/build/tools/bin:$PATH PIP_PYTHON=/opt/styleclip/bin/python3 PIP_NO_CACHE_DIR=1
COPY requirements/steps.txt requirements/server.txt requirements/torch.txt requirements/
ARG LANDMARKS=0
ARG TORCH=0
RUN pip install -r requirements/steps.txt \
    && if [ "$LANDMARKS" = 1 ]; then \
        grep '^face-recognition-models==' requirements/server.txt > landmarks.txt \
        && env -u PIP_PYTHON pip wheel --no-build-isolation --no-deps -w wheels -r landmarks.txt \
        && pip install --no-deps wheels/face_recognition_models-*.whl; \
    fi
# hadolint ignore=DL3008
RUN if [ "$TORCH" = 1 ]; then \
        apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev libpython3-dev \
        && grep -v '^onnxruntime-gpu==' requirements/torch.txt > torch.txt \
        && pip install -r torch.txt; \
    fi
COPY pyproject.toml README.md LICENSE NOTICE.md ./
COPY contract contract
COPY networks networks
COPY server server
COPY export export
COPY client client
COPY docker/describe.py .
RUN env -u PIP_PYTHON pip wheel --no-build-isolation --no-deps -w wheels . \
    && pip install --no-deps wheels/styleclip_triton-*.whl \
    && install -D -m 644 -t /opt/styleclip/share/doc/styleclip LICENSE NOTICE.md \
    && python describe.py /opt/styleclip /opt/styleclip/share/doc/styleclip
RUN --mount=type=bind,source=model_repository/people,target=/build/people \
    if [ "$TORCH" = 1 ]; then \
        /opt/styleclip/bin/python3 -m styleclip_server.kernels /opt/styleclip/kernels \
            --resolution 1024 --domain people; \
    fi

FROM ${BASE} AS ngc
# tini reaps the processes that Triton leaves behind when it dies; the supervisor restarts Triton.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
# Triton's Python backend uses the first python3 on PATH: this environment's.
COPY --from=build /opt/styleclip /opt/styleclip
COPY model_repository/steps /opt/styleclip/model_repository/steps
ENV PATH=/opt/styleclip/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    STYLECLIP_TRITON=/opt/tritonserver \
    STYLECLIP_KERNELS=/opt/styleclip/kernels \
    STYLECLIP_HOST=0.0.0.0 \
    STYLECLIP_LOG=- \
    STYLECLIP_REPOSITORY=/opt/styleclip/model_repository \
    STYLECLIP_DOMAINS=/models
LABEL org.opencontainers.image.title="styleclip-server-ngc"
# NVIDIA's image may have a user with this id; only the number matters.
USER 1000:1000
WORKDIR /tmp
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=30s --timeout=15s --start-period=120s --retries=2 \
    CMD ["python3", "-m", "styleclip_server.health"]
# NVIDIA's entry point checks the driver, then runs this.
CMD ["tini", "-s", "--", "python3", "-m", "styleclip_server"]
