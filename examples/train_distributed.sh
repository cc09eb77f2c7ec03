#!/usr/bin/env bash
# Trains by N processes and starts them again, from the last checkpoint, until the run has come to its end.
#
#   train_distributed.sh N --checkpoint run.safetensors --every 50 [ARGUMENT OF train_distributed]...
#
#   ATTEMPTS=10                      give up after so many starts
#   MPIRUN="mpirun --hostfile hosts" how to start processes
#   PROGRAM=build/examples/train_distributed
set -uo pipefail

processes=${1:?number of processes}
shift
mpirun=${MPIRUN:-mpirun}
program=${PROGRAM:-$(dirname "$0")/train_distributed}
for ((attempt = 1; attempt <= ${ATTEMPTS:-10}; ++attempt)); do
  # shellcheck disable=SC2086
  $mpirun -n "$processes" "$program" "$@" --resume && exit 0
  echo "train_distributed.sh: start $attempt ended early; going on from the last checkpoint" >&2
  sleep 1
done
echo "train_distributed.sh: given up after ${ATTEMPTS:-10} starts" >&2
exit 1
