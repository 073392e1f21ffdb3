#!/usr/bin/env bash
# Trains on the machines of a hostfile over ssh, one process a GPU; goes on where RUN_DIR holds a run.
#
#   launch/hostfile.sh [--dry-run] [--hostfile FILE] PRESET RUN_DIR [ARGUMENT ...]
#
#   --hostfile FILE    a line for each machine, such as `node-1 slots=8` (default: ./hostfile)
#   --dry-run          print the command, start nothing
#   ARGUMENT           more arguments of `fastgan train`, such as --set training.accumulate=4 engine.zero_stage=1
#
# Every machine needs the same environment and the same paths to the code, the data and RUN_DIR. NCCL_* and PYTHON* variables
# reach them by themselves, others through lines NAME=VALUE in ./.deepspeed_env.

set -euo pipefail
# shellcheck source=launch/arguments.sh
. "$(dirname "$0")/arguments.sh"

hostfile=hostfile
read_arguments hostfile -- "$@"
[[ -r $hostfile ]] || fail "there is no hostfile $hostfile"
start deepspeed --hostfile "$hostfile" --no_local_rank --module fastgan "${train[@]}"
