#!/usr/bin/env bash
# Trains on the GPUs of this machine, one process each; goes on where RUN_DIR holds a run.
#
#   launch/one_node.sh [--dry-run] [--gpus N] PRESET RUN_DIR [ARGUMENT ...]
#
#   --gpus N     this many processes (default: one for each GPU)
#   --dry-run    print the command, start nothing
#   ARGUMENT     more arguments of `fastgan train`, such as --set training.accumulate=4 engine.zero_stage=1

set -euo pipefail
# shellcheck source=launch/arguments.sh
. "$(dirname "$0")/arguments.sh"

gpus=
read_arguments gpus -- "$@"
start deepspeed ${gpus:+--num_gpus "$gpus"} --no_local_rank --module fastgan "${train[@]}"
