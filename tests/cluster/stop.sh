#!/usr/bin/env bash
# Stops the cluster that start.sh started in FMCT_CLUSTER_DIR and removes the folder.
set -euo pipefail
dir=$(realpath -m "${FMCT_CLUSTER_DIR:?name the folder of the cluster}")
[ -d "$dir/pid" ] || { echo "cluster: none in $dir"; exit 0; }

# Jobs first, so that no step outlives its daemon; then the daemons, from the nodes to the database.
SLURM_CONF=$dir/slurm.conf timeout 10 scancel --user "$(id -un)" 2> /dev/null || true
for daemon in slurmd-n1 slurmd-n2 slurmd-n3 slurmd-n4 slurmctld slurmdbd mariadbd munged; do
  pid=$(cat "$dir/pid/$daemon.pid" 2> /dev/null) || continue
  kill "$pid" 2> /dev/null || continue
  for _ in $(seq 100); do
    kill -0 "$pid" 2> /dev/null || break
    sleep 0.1
  done
  kill -KILL "$pid" 2> /dev/null || true
done
rm -rf "$dir"
echo "cluster: stopped"
