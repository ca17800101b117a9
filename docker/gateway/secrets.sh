#!/bin/sh
# Creates the gateway's secrets in docker/gateway/secrets/ (or in the folder GATEWAY_SECRETS):
# `docker/gateway/secrets.sh HOST [NAME]`.
#
# Writes a self-signed certificate for HOST (replace certificate.pem and key.pem with yours), and a
# token and a password for NAME (default: me). A second run with another NAME adds a client.
set -eu
host=${1:?usage: secrets.sh HOST [NAME]}
name=${2:-me}
case $name in *[!A-Za-z0-9_.-]*) echo "secrets.sh: a name may have only letters, digits, _ . and -" >&2; exit 2 ;; esac
case $host in
    *[!0-9.]*) kind=DNS ;;
    *) kind=IP ;;
esac
folder=${GATEWAY_SECRETS:-$(dirname "$0")/secrets}
umask 077
mkdir -p "$folder"
cd "$folder"
if grep -qs " $name;$" tokens; then
    echo "secrets.sh: $name already has a token in $folder/tokens: remove the line first" >&2
    exit 1
fi
if [ ! -e certificate.pem ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
        -subj "/CN=$host" -addext "subjectAltName=$kind:$host" \
        -keyout key.pem -out certificate.pem 2>/dev/null
fi
token=$(openssl rand -hex 24)
password=$(openssl rand -base64 12)
printf '"Bearer %s" %s;\n' "$token" "$name" >> tokens
printf '%s:%s\n' "$name" "$(openssl passwd -6 "$password")" >> passwords
# Readable only by the gateway's user: that of nginx-unprivileged, or you.
if [ "$(id -u)" = 0 ]; then
    chown -R 101:101 .
else
    echo "The gateway must run as your user to read these files: put GATEWAY_UID=$(id -u) into docker/.env"
fi
cat <<END
Token of $name (styleclip --token, or Client(token=...)): $token
Page: name $name, password $password
Certificate to trust (--ca): $folder/certificate.pem
END
