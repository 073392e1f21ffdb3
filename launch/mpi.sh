#!/usr/bin/env bash
# Trains on the machines of an Open MPI hostfile, one process a GPU; goes on where RUN_DIR holds a run. What an MPIJob's launcher
# starts (launch/mpijob.yaml).
#
#   launch/mpi.sh [--dry-run] [--hostfile FILE] PRESET RUN_DIR [ARGUMENT ...]
#
#   --hostfile FILE    a line for each machine, such as `node-1 slots=8` (default: the MPI operator's)
#   --dry-run          print the command, start nothing
#   ARGUMENT           more arguments of `fastgan train`, such as --set training.accumulate=4 engine.zero_stage=1

set -euo pipefail
# shellcheck source=launch/arguments.sh
. "$(dirname "$0")/arguments.sh"

hostfile=${OMPI_MCA_orte_default_hostfile:-/etc/mpi/hostfile}
read_arguments hostfile -- "$@"
[[ -r $hostfile ]] || fail "there is no hostfile $hostfile"

# Rank 0 runs on the first machine.
MASTER_ADDR=$(awk '$1 !~ /^#/ && NF { print $1; exit }' "$hostfile")
command=(mpirun --hostfile "$hostfile" --bind-to none --map-by slot)
for variable in $(compgen -e | grep -E '^(PATH|LD_LIBRARY_PATH|(PYTHON|NCCL_|GLOO_|TORCH_|OMP_).*)$'); do
    command+=(-x "$variable")
done
if ((EUID == 0)); then # as in most containers
    command+=(--allow-run-as-root)
fi
start "${command[@]}" -x "MASTER_ADDR=$MASTER_ADDR" -x "MASTER_PORT=${MASTER_PORT:-29500}" python -m fastgan "${train[@]}"
