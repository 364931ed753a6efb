# Makes a key and a certificate that vouches for itself, for a year:
#   sh certificate.sh FOLDER DNS:triton,DNS:localhost,IP:127.0.0.1
# Clients take tls.crt as the authority. User 1000, who runs Triton, must be able to read tls.key.
set -eu
mkdir -p "$1"
umask 077
openssl req -x509 -newkey rsa:3072 -sha256 -days 365 -noenc -subj /CN=triton \
  -addext "subjectAltName=$2" -keyout "$1/tls.key" -out "$1/tls.crt"
chmod 644 "$1/tls.crt"
