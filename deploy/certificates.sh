#!/bin/sh
# Makes a certificate authority and a server certificate for a SuperLink, in a folder of yours:
#
#     deploy/certificates.sh FOLDER HOST...
#
# HOST is each name or IP address under which nodes reach the SuperLink. FOLDER then holds ca.crt,
# which every node and every user needs; server.pem and server.key for the SuperLink; and ca.key,
# which signs further certificates and stays with you. An authority that is there is used again.
# The certificate is for localhost, 127.0.0.1 and ::1 too: a SuperLink that listens on 0.0.0.0 or ::
# starts its ServerApps through those.
set -eu
if [ "$#" -lt 2 ]; then
    echo "usage: $0 FOLDER HOST..." >&2
    exit 2
fi
folder=$1
shift
names=
name=$1
for host in "$@" localhost 127.0.0.1 ::1; do
    case $host in
    *[!0-9.]*:* | *:*) kind=IP ;;
    *[!0-9.]*) kind=DNS ;;
    *) kind=IP ;;
    esac
    case ,$names, in
    *,"$kind:$host",*) ;;
    *) names=${names:+$names,}$kind:$host ;;
    esac
done
umask 077
mkdir -p "$folder"
cd "$folder"
if [ ! -e ca.key ]; then
    openssl ecparam -name secp384r1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -sha384 -days 3650 -subj "/CN=fl2ora federation" \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -out ca.crt
fi
openssl ecparam -name secp384r1 -genkey -noout -out server.key
openssl req -new -key server.key -subj "/CN=$name" -out server.csr
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' "$names" >server.ext
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -sha384 \
    -extfile server.ext -out server.pem 2>/dev/null
rm server.csr server.ext
chmod 644 ca.crt server.pem
echo "$PWD: certificate for $names, for a year"
