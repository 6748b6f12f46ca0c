#!/usr/bin/env bash
# A run on a TPU pod slice: the same command on every host, which find each other by themselves.
#
# Command:  NAME=my-pod ZONE=us-central2-b bash experiments/launch/tpu_pod.sh FILE RUN [OPTIONS]
# Needs:    gcloud here; on every host the same clone in ~/deqjax with a virtual environment .venv
#           (pip install '.[tpu]'); the folder RUN on a file system that all hosts mount, such as
#           Filestore; FILE as the hosts see it
# Change:   CHECKOUT, if the clone lies elsewhere
# Ends:     with the run. Maintenance and preemption send SIGTERM, a lost connection SIGHUP: the
#           run saves, and ends. The same command, on the pod that comes next, goes on with RUN.

set -euo pipefail
usage="usage: NAME=... ZONE=... bash tpu_pod.sh FILE RUN [OPTIONS of deqjax train]"
: "${NAME:?$usage}" "${ZONE:?$usage}" "${1:?$usage}" "${2:?$usage}"
file=$1 run=$2
shift 2

# Nobody creates RUN before all have joined, so all see alike whether it is there.
on_every_host=$(
    printf 'cd %q && . .venv/bin/activate\n' "${CHECKOUT:-deqjax}"
    printf 'if [ -e %q ]; then resume=--resume; fi\n' "$run"
    # shellcheck disable=SC2016  # each host expands it
    printf 'exec deqjax train %q --workdir %q --coordinator auto ${resume:-}' "$file" "$run"
    if [ $# -gt 0 ]; then printf ' %q' "$@"; fi
)
exec gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker all --command "$on_every_host"
