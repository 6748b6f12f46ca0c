#!/usr/bin/env bash
# A run on all GPUs of one host, or on some of them: one process drives them all.
#
# Command:  bash experiments/launch/gpus_of_one_host.sh FILE RUN [OPTIONS of deqjax train]
#           CUDA_VISIBLE_DEVICES=0,1 bash ...      on these two alone
#           nohup bash ... > run.log 2>&1 &        goes on when you log out
# Needs:    the command deqjax, installed with its extra cuda13; --batch-size a multiple of the GPUs
# Change:   the flag below, which makes resumed runs equal bit for bit, and steps a little slower
# Ends:     with the run; Ctrl-C, SIGTERM, and a terminal that is closed save first. The same
#           command goes on with RUN.

set -euo pipefail
usage="usage: bash gpus_of_one_host.sh FILE RUN [OPTIONS of deqjax train]"
file=${1:?$usage}
run=${2:?$usage}
shift 2
if [ -e "$run" ]; then
    set -- --resume "$@"
fi
export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_deterministic_ops=true"

# exec: signals reach the run itself
exec deqjax train "$file" --workdir "$run" "$@"
