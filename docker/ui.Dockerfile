# The web page, from the repository's root:
#   docker build -f docker/ui.Dockerfile -t styleclip-ui .
# STYLECLIP_SERVER is the server's address. BASE is as in server.Dockerfile.
ARG BASE=docker.io/library/python:3.12.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
COPY requirements/image-tools.txt requirements/
RUN python3 -m venv tools && tools/bin/pip install --no-cache-dir -r requirements/image-tools.txt \
    && python3 -m venv --without-pip /opt/styleclip
ENV PATH=/build/tools/bin:$PATH PIP_PYTHON=/opt/styleclip/bin/python3 PIP_NO_CACHE_DIR=1
COPY requirements/ui.txt requirements/
RUN pip install -r requirements/ui.txt \
    # Removes the tests of pandas and pyarrow, and pyarrow's headers.
    && find /opt/styleclip/lib -type d \( -name tests -o -path '*/pyarrow/include' \) \
        -prune -exec rm -r {} +
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

FROM ${BASE} AS ui
RUN useradd --uid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin styleclip
COPY --from=build /opt/styleclip /opt/styleclip
COPY demo/samples /opt/styleclip/demo/samples
COPY streamlit-ui /opt/styleclip/streamlit-ui
ENV PATH=/opt/styleclip/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    STREAMLIT_SERVER_ADDRESS=0.0.0.0 \
    STYLECLIP_SERVER=server:8001
LABEL org.opencontainers.image.title="styleclip-ui" \
      org.opencontainers.image.licenses="MIT"
USER 1000:1000
# Streamlit reads .streamlit/config.toml from the current folder.
WORKDIR /opt/styleclip/streamlit-ui
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=2 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://localhost:8501/_stcore/health', timeout=4)"]
ENTRYPOINT ["python3", "-m", "streamlit", "run", "app.py", "--"]
