# The converter (`styleclip-export`), from the repository's root:
#   docker build -f docker/export.Dockerfile -t styleclip-export .
#   docker run --rm -it -u "$(id -u):$(id -g)" -v ./weights:/data/weights \
#       -v ./model_repository:/data/model_repository styleclip-export fetch ffhq
# It also contains the people domain, to fill a volume with. BASE is as in server.Dockerfile;
# TORCH_INDEX is a package index for PyTorch, for example one of CPU builds.
ARG BASE=docker.io/library/python:3.12.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
COPY requirements/image-tools.txt requirements/
RUN python3 -m venv tools && tools/bin/pip install --no-cache-dir -r requirements/image-tools.txt \
    && python3 -m venv --without-pip /opt/styleclip
ENV PATH=/build/tools/bin:$PATH PIP_PYTHON=/opt/styleclip/bin/python3 PIP_NO_CACHE_DIR=1
COPY requirements/export.txt requirements/
ARG TORCH_INDEX=
RUN if [ -n "$TORCH_INDEX" ]; then \
        grep '^torch==' requirements/export.txt > torch.txt \
        && pip install --index-url "$TORCH_INDEX" --no-deps -r torch.txt; \
    fi \
    && pip install -r requirements/export.txt
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

FROM ${BASE} AS export
RUN useradd --uid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin styleclip \
    && install -d -o 1000 -g 1000 /data
COPY --from=build /opt/styleclip /opt/styleclip
COPY model_repository/people /opt/styleclip/model_repository/people
ENV PATH=/opt/styleclip/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="styleclip-export" \
      org.opencontainers.image.licenses="MIT"
USER 1000:1000
WORKDIR /data
# Runs once; no health check.
HEALTHCHECK NONE
ENTRYPOINT ["styleclip-export"]
