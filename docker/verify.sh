#!/usr/bin/env bash
# Builds the images and runs them, on a Debian machine without a Docker engine:
#   make .venv/.dev && docker/verify.sh            (as root; some minutes; 4 GB of disk)
#   docker/verify.sh gpu export ngc                also builds these, and runs export and ngc
#
# debootstrap creates a base image, used as BASE; buildah builds the Dockerfiles; the real
# `docker compose` starts docker/compose.yaml on podman. The script then edits an image through the
# server's ports, through the gateway and on the page in a browser, kills a step and stops all
# services. The gateway's and Prometheus's images come from registries; Debian's packages with
# compose's configuration replace them. Grafana is not in Debian and is skipped.
#
# The results are in out/verify/summary.md. KEEP=1 keeps the images, in VERIFY_FOLDER.
set -euo pipefail
cd "$(dirname "$0")/.."

project=$PWD
bin=$project/.venv/bin
folder=${VERIFY_FOLDER:-/var/tmp/styleclip-verify}
out=$project/out/verify
debian=bookworm
started=$SECONDS

log() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - started)); }
fail() { echo "verify.sh: $*" >&2; exit 1; }
row() { printf '| %s | %s |\n' "$1" "$2" | tee -a "$out/summary.md"; }

# --- Requirements ---
[ "$(id -u)" = 0 ] || fail "run it as root: it builds images with chroot and mounts"
[ -x "$bin/docker-compose" ] || fail "$bin/docker-compose is missing: make .venv/.dev"
needed=(buildah podman runc debootstrap iptables containernetworking-plugins
    golang-github-containernetworking-plugin-dnsname openssl)
for package in "${needed[@]}"; do
    if ! dpkg -s "$package" > /dev/null 2>&1; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${needed[@]}"
        break
    fi
done

# --- Image store and engine, removed at the end ---
mkdir -p "$folder" "$out"
exec 9> "$folder/lock"
flock -n 9 || fail "another verify.sh is running in $folder"
: > "$out/summary.md"
grep -qw overlay /proc/filesystems && driver=overlay || driver=vfs  # vfs copies every layer
cat > "$folder/storage.conf" <<END
[storage]
driver = "$driver"
graphroot = "$folder/storage"
runroot = "$folder/run"
END
# Without systemd; limits as high as this machine allows.
limit=$(ulimit -Hn)
cat > "$folder/containers.conf" <<END
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=$((limit < 4096 ? limit : 4096)):$((limit < 4096 ? limit : 4096))", "nproc=4096:4096"]
log_driver = "k8s-file"
END
export CONTAINERS_STORAGE_CONF=$folder/storage.conf CONTAINERS_CONF=$folder/containers.conf
export BUILDAH_ISOLATION=chroot DOCKER_HOST=unix://$folder/podman.sock

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
HTTP_PORT=$(free_port) GRPC_PORT=$(free_port) METRICS_PORT=$(free_port) UI_PORT=$(free_port)
GATEWAY_PORT=$(free_port) PROMETHEUS_PORT=$(free_port)
export HTTP_PORT GRPC_PORT METRICS_PORT UI_PORT GATEWAY_PORT PROMETHEUS_PORT
export GATEWAY_BIND=127.0.0.1 GATEWAY_SECRETS=$folder/secrets GATEWAY_UID=1000
export SERVER_IMAGE=localhost/styleclip-server UI_IMAGE=localhost/styleclip-ui
export GATEWAY_IMAGE=localhost/gateway PROMETHEUS_IMAGE=localhost/prometheus
unset http_proxy HTTP_PROXY https_proxy HTTPS_PROXY
compose() { "$bin/docker-compose" --progress quiet -p styleclip-verify -f docker/compose.yaml --profile '*' "$@"; }
container() { podman ps -q --filter "name=styleclip-verify-$1-"; }

service=
cleanup() {
    local status=$?
    set +e
    if [ -n "$service" ]; then
        [ $status = 0 ] || podman ps -aq | xargs -r -n 1 podman logs --tail 15
        compose down -v -t 5
        kill "$service"
        wait "$service"
    fi > "$out/cleanup.log" 2>&1
    [ $status = 0 ] || tail -n 60 "$out/cleanup.log" >&2
    if [ -z "${KEEP:-}" ]; then
        podman rm -af -t 1 && buildah rm -a && podman rmi -af
        umount "$folder/storage/overlay"
        rm -rf "${folder:?}/storage" "${folder:?}/run" "${folder:?}/secrets"
    fi >> "$out/cleanup.log" 2>&1
    exit $status
}
trap cleanup EXIT
rm -rf "$folder/secrets"

# --- The base image ---
if [ ! -s "$folder/base.tar" ]; then
    log "creating the base image from Debian $debian"
    debootstrap --variant=minbase --include=python3,python3-venv,libpython3-stdlib,libpython3.11,ca-certificates \
        "$debian" "$folder/rootfs" > "$out/debootstrap.log"
    rm -rf "$folder"/rootfs/var/cache/apt/archives/*.deb "$folder"/rootfs/var/lib/apt/lists/*
    tar -C "$folder/rootfs" -cf "$folder/base.tar.new" .
    mv "$folder/base.tar.new" "$folder/base.tar"
    rm -rf "$folder/rootfs"
fi
if ! podman image exists localhost/base; then
    new=$(buildah from scratch)
    buildah add -q "$new" "$folder/base.tar" / > /dev/null
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$new"
    buildah commit -q --rm "$new" localhost/base > /dev/null
fi

# pip's configuration and CA certificates, mounted during builds only.
mounts=(-v /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro)
[ ! -f /etc/pip.conf ] || mounts+=(-v /etc/pip.conf:/etc/pip.conf:ro)

build() {  # NAME DOCKERFILE TARGET [BASE]: the image localhost/NAME
    log "building $1"
    local start=$SECONDS
    buildah build --format docker --layers -f "$2" --target "$3" --build-arg "BASE=${4:-localhost/base}" \
        "${mounts[@]}" -t "localhost/$1" . > "$out/$1.log" 2>&1 || { tail -n 30 "$out/$1.log" >&2; fail "building $1 failed"; }
    local took=$((SECONDS - start)) mounted size
    size=$(podman image inspect --format '{{.Size}}' "localhost/$1")
    row "$1: unpacked size, time to build" "$((size / 1000000)) MB, $took s"
    mounted=$(podman image mount "localhost/$1")
    if find "$mounted" -xdev \( -name 'gcc*' -o -name 'cc1*' -o -name 'clang*' -o -name ld -o -name make \) \
        -path '*/bin/*' | grep .; then fail "$1 has a compiler"; fi
    if [ "$1" != styleclip-export ] && find "$mounted" -name '*.onnx' -not -path '*/onnxruntime/*' | grep .; then
        fail "$1 has networks"
    fi
    row "$1: user; components in its bill of materials" "$(podman image inspect --format '{{.Config.User}}' "localhost/$1"); $(python3 - "$mounted" <<'END'
import json, sys
folder = f"{sys.argv[1]}/opt/styleclip/share/doc/styleclip"
kinds = [each["purl"].split("/")[0] for each in json.load(open(f"{folder}/sbom.cdx.json"))["components"] if "purl" in each]
assert len(open(f"{folder}/licences.txt").read()) > 10_000
print(f"{kinds.count('pkg:pypi')} of Python, {kinds.count('pkg:deb')} of Debian")
END
    )"
    podman image unmount "localhost/$1" > /dev/null
}
build styleclip-server docker/server.Dockerfile cpu
build styleclip-ui docker/ui.Dockerfile ui

log "building substitutes for the gateway's and Prometheus's images"
for name in gateway prometheus; do
    case $name in
        gateway) package=nginx-light start= owned=/run ;;  # compose.yaml has its command
        prometheus) package=prometheus start='ENTRYPOINT ["prometheus"]' owned=/prometheus ;;
    esac
    buildah build --format docker -t "localhost/$name" - > "$out/$name.log" 2>&1 <<END
FROM localhost/base
RUN apt-get update && apt-get install -y --no-install-recommends $package && mkdir -p $owned && chown 1000:1000 $owned
USER 1000:1000
$start
END
done

# --- Run ---
log "docker compose up: server, ui, gateway, prometheus"
podman system service --time 0 "$DOCKER_HOST" > "$out/engine.log" 2>&1 &
service=$!
until podman --remote --url "$DOCKER_HOST" info > /dev/null 2>&1; do sleep 0.2; done
output=$(docker/gateway/secrets.sh localhost verify)
chown -R 1000:1000 "$folder/secrets"
token=$(sed -n 's/^Token .*: \([0-9a-f]*\)$/\1/p' <<< "$output")
password=$(sed -n 's/^Page: .* password //p' <<< "$output")
start=$SECONDS
compose up -d --no-build --pull never --scale grafana=0
healthy() { podman healthcheck run "$(container "$1")" > /dev/null 2>&1; }
wait_for() { for _ in $(seq 240); do "$@" && return; sleep 0.5; done; fail "timed out waiting for: $*"; }
wait_for healthy server
wait_for healthy ui
row "from compose up until server and page are healthy" "$((SECONDS - start)) s"

for name in server ui; do
    podman exec "$(container $name)" sh -c 'test "$(id -u)" = 1000 && ! touch /new 2> /dev/null && ! touch /opt/styleclip/new 2> /dev/null' \
        || fail "$name runs as root or can write to its root file system"
done
row "server and page: not root, root file system read-only, no capabilities" "yes"

log "editing through the containers"
photo=demo/samples/people-1.jpg
edit() {  # FILE OPTION...: edits the photo and prints size and time
    local output
    output=$("$bin/styleclip" edit $photo --target "a face with sunglasses" --overwrite -o "$out/$1" "${@:2}") || return
    echo "${output#*: }"
}
edited=$(edit grpc.png --server "localhost:$GRPC_PORT")
row "edit by gRPC" "$edited"
edited=$(edit http.png --server "http://localhost:$HTTP_PORT")
row "edit by HTTP" "$edited"
curl -sf -F photo=@$photo -F target="a face with sunglasses" "http://localhost:$HTTP_PORT/v1/edit" \
    -o "$out/api.jpg" || fail "the web API did not answer"
row "edit by the web API" "$(wc -c < "$out/api.jpg") bytes"
trust=(--token "$token" --ca "$folder/secrets/certificate.pem")
edited=$(edit grpcs.png --server "grpcs://localhost:$GATEWAY_PORT" "${trust[@]}")
row "edit by gRPC through the gateway (TLS, token)" "$edited"
edited=$(edit https.png --server "https://localhost:$GATEWAY_PORT" "${trust[@]}")
row "edit by HTTP through the gateway (TLS, token)" "$edited"
refused=$(edit no.png --server "grpcs://localhost:$GATEWAY_PORT" --ca "$folder/secrets/certificate.pem" 2>&1 || true)
grep -q AccessRefused <<< "$refused" || fail "the gateway accepted a request without a token: $refused"
cmp "$out/grpc.png" "$out/https.png" || fail "the images differ"
if "$bin/python" -c 'import playwright' 2> /dev/null && command -v chromium > /dev/null; then
    PASSWORD=$password "$bin/python" docker/edit_on_page.py "https://localhost:$GATEWAY_PORT" verify \
        demo/samples/people-3.jpg "$out/page.png"
    row "upload and edit on the page, in Chromium, through the gateway (TLS, login)" "done, out/verify/page.png"
else
    row "edit on the page" "skipped: no playwright or chromium"
fi
request_count() { python3 -c "
import json, urllib.request as r
url = 'http://localhost:$PROMETHEUS_PORT/api/v1/query?query=sum(nv_inference_request_success)'
result = json.load(r.urlopen(url))['data']['result']
print(result[0]['value'][1] if result else '')" 2> /dev/null | grep .; }
wait_for request_count > /dev/null
row "requests that Prometheus has counted" "$(request_count)"

log "killing a step"
supervisor=$(pgrep -P "$(podman inspect --format '{{.State.Pid}}' "$(container server)")")
kill -STOP "$supervisor"  # or it restarts the server before the check
pgrep -g "$(pgrep -d, -P "$supervisor")" -f models/align/ | xargs kill -9
if healthy server; then fail "the health check missed a dead step"; fi
ready=$(python3 -c "import urllib.request as r; print(r.urlopen('http://localhost:$HTTP_PORT/v2/health/ready').status)")
row "a step's processes killed, the supervisor paused" "health check: unhealthy; Triton's own readiness: $ready"
kill -CONT "$supervisor"
start=$SECONDS
wait_for healthy server
row "the supervisor resumed: healthy again after" "$((SECONDS - start)) s"

log "stopping"
start=$SECONDS
server=$(container server)
compose stop server
row "docker compose stop server: time, exit status" "$((SECONDS - start)) s, $(podman inspect --format '{{.State.ExitCode}}' "$server")"
compose down -v -t 5

# --- Optional images ---
# A substitute for NVIDIA's image: a complete Triton in /opt/tritonserver (from the wheel, with the
# project's ONNX Runtime backend) and the system's Python.
build_ngc_base() {
    buildah build --format docker "${mounts[@]}" -t localhost/ngc-base -f - . > "$out/ngc-base.log" 2>&1 <<'END'
FROM localhost/base
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip
COPY requirements/server.txt /
COPY server/styleclip_server/serving/backends/onnxruntime.py /opt/tritonserver/backends/onnxruntime/model.py
RUN grep -E '^(onnxruntime|flatbuffers|packaging|protobuf)==' server.txt > backend.txt \
    && python3 -m pip install --no-deps --target /opt/tritonserver/backends/onnxruntime -r backend.txt \
    && grep '^nvidia-pytriton==' server.txt > triton.txt \
    && python3 -m pip install --break-system-packages --no-deps -r triton.txt \
    && cd /usr/local/lib/python3.11/dist-packages/pytriton/tritonserver \
    && cp -r bin /opt/tritonserver/ && cp -r backends/python /opt/tritonserver/backends/ \
    && cp python_backend_stubs/3.11/* /opt/tritonserver/backends/python/ \
    && echo /usr/local/lib/python3.11/dist-packages/nvidia_pytriton.libs > /etc/ld.so.conf.d/triton.conf \
    && ldconfig
END
}
run_ngc() {
    local id
    id=$(podman run -d --read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges --shm-size 1g \
        -v "$project/model_repository:/models:ro" -p "127.0.0.1:$GRPC_PORT:8001" -e STYLECLIP_NO_TOKEN=1 localhost/styleclip-server-ngc 2> /dev/null)
    wait_for podman healthcheck run "$id" > /dev/null 2>&1
    edited=$(edit ngc.png --server "localhost:$GRPC_PORT")
    row "styleclip-server-ngc, on a substitute for its base: edit" "$edited"
    podman rm -f -t 30 "$id" > /dev/null 2>&1
}
for image in "$@"; do
    case $image in
        gpu)
            build styleclip-server-gpu docker/server.Dockerfile gpu
            # Looks up every kernel again, in the finished image.
            row "styleclip-server-gpu: kernels" "$(podman run --rm --no-healthcheck --network none --read-only --tmpfs /tmp:exec \
                -v "$project/model_repository/people:/people:ro" --entrypoint python3 localhost/styleclip-server-gpu \
                -m styleclip_server.kernels /opt/styleclip/kernels --resolution 1024 --domain /people | paste -sd ';')"
            ;;
        export)
            build styleclip-export docker/export.Dockerfile export
            row "styleclip-export" "$(podman run --rm --network none --read-only --tmpfs /tmp localhost/styleclip-export --version)"
            ;;
        ngc)
            build_ngc_base
            build styleclip-server-ngc docker/ngc.Dockerfile ngc localhost/ngc-base
            run_ngc
            ;;
        *) fail "unknown image: $image (gpu, export, ngc)" ;;
    esac
done

log "done"
row "total" "$((SECONDS - started)) s"
