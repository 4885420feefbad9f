#!/bin/bash
# A dataset made by a Ray cluster that is there already: one worker for each of its GPUs. All nodes see the same folders
# under the same paths, and have d2r-fast with its extra `ray`. On a node of the cluster:
#
#   RENDERS=/data/digiface MODELS=/data/models OUT=/data/digi2real examples/ray/generate.sh --seed 1
#
# or from elsewhere, as a job, which needs `ray[default]` on both sides:
#
#   ray job submit --address http://HEAD:8265 -- bash /data/d2r-fast/examples/ray/generate.sh
#
# Run it again after a failure: finished shards are kept. A cluster of one machine, to try it: ray start --head
set -eu
: "${RENDERS:?folder or archives of renders}" "${MODELS:?model folder}" "${OUT:?folder for the dataset}"

exec d2r-fast generate "$RENDERS" --models "$MODELS" --out "$OUT" --preset "${PRESET:-paper}" \
    --executor ray --ray-address "${RAY_ADDRESS:-auto}" "$@"
