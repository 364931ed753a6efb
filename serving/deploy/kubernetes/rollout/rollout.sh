# Rolls a version out on every Triton pod, one after the other:  sh rollout.sh digits@champion
# The first pod decides: certificate, golden rows, what config.pbtxt serves from then on, the alias.
# Where a later pod refuses, those before it go back, and the exit code is 1.
set -eu
model=$1
name=${model#models:/}
name=${name%%[@/]*}
# a pod's name is its address: 10.0.0.7 is 10-0-0-7.triton-pods..., which the certificate bears
pods=${TRITON_PODS:-$(python -c '
import os, socket
at = os.environ["TRITON_PODS_AT"]
found = {i[4][0] for i in socket.getaddrinfo(at, 8001, socket.AF_INET, socket.SOCK_STREAM)}
print(*(f"{ip.replace(chr(46), chr(45))}.{at}:8001" for ip in sorted(found)))')}
[ -n "$pods" ] || { echo "no Triton pod is ready" >&2; exit 1; }
done=
for pod in $pods; do
  if thresher rollout "$model" --server "$pod" --repository "$MODEL_REPOSITORY"; then
    done="$pod $done"
    continue
  fi
  for earlier in $done; do
    thresher rollback "$name" --server "$earlier" --repository "$MODEL_REPOSITORY" ||
      echo "$earlier still answers with the new version of $name" >&2
  done
  exit 1
done
