#!/bin/sh
# Makes what the gateway keeps secret, in docker/gateway/secrets/ (or the folder in
# GATEWAY_SECRETS): `docker/gateway/secrets.sh HOST [NAME]`.
#
# A certificate of HOST that is its own authority (replace certificate.pem and key.pem by yours), a
# token and a password for NAME (default: me). Run again with another NAME it adds that one.
set -eu
host=${1:?usage: secrets.sh HOST [NAME]}
name=${2:-me}
case $name in *[!A-Za-z0-9_.-]*) echo "secrets.sh: a name has letters, digits, _ . and - only" >&2; exit 2 ;; esac
case $host in
    *[!0-9.]*) kind=DNS ;;
    *) kind=IP ;;
esac
folder=${GATEWAY_SECRETS:-$(dirname "$0")/secrets}
umask 077
mkdir -p "$folder"
cd "$folder"
if grep -qs " $name;$" tokens; then
    echo "secrets.sh: $name has a token in $folder/tokens already: remove the line first" >&2
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
# Nobody else may read them; the gateway's process is nginx-unprivileged's user, or you.
if [ "$(id -u)" = 0 ]; then
    chown -R 101:101 .
else
    echo "The gateway must run as you to read this: put GATEWAY_UID=$(id -u) into docker/.env"
fi
cat <<END
Token of $name (styleclip --token, or Client(token=...)): $token
Page: name $name, password $password
Certificate to trust (--ca): $folder/certificate.pem
END
