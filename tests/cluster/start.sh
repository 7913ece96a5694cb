#!/usr/bin/env bash
# Starts a real Slurm on this host, without systemd and outside /etc: munge, MariaDB, slurmdbd, slurmctld, and
# four slurmds n[1-4] with two simulated GPUs each. Partition `low` (default) is preempted by `high`.
#   FMCT_CLUSTER_DIR=DIR bash tests/cluster/start.sh     all files are in DIR; a running cluster is not changed
# Then sbatch, squeue and sacct only need SLURM_CONF=DIR/slurm.conf. Requires root (munge, mknod, slurmd).
set -euo pipefail
export LC_ALL=C
dir=$(realpath -m "${FMCT_CLUSTER_DIR:?name a folder for the cluster}")
host=$(hostname -s)
export SLURM_CONF=$dir/slurm.conf
PATH=$PATH:/usr/sbin:/sbin

fail() {
  echo "cluster: $*; last lines of the logs in $dir/log:" >&2
  tail -n 8 "$dir"/log/*.log >&2 || true
  FMCT_CLUSTER_DIR=$dir bash "$(dirname "$0")/stop.sh" || true
  exit 1
}
# until_ok SECONDS WHAT COMMAND...: wait until COMMAND succeeds
until_ok() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || fail "$what did not come up in time"
    sleep 0.2
  done
}
idle_nodes() { [ "$(sinfo --noheader --Node --partition low --states idle --format %N | wc -l)" = 4 ]; }

if [ -e "$dir/slurm.conf" ] && idle_nodes 2> /dev/null; then
  echo "cluster: already up in $dir"
  exit 0
fi
[ "$(id -u)" = 0 ] || { echo "cluster: starting Slurm's daemons needs root" >&2; exit 2; }
for program in munged mariadbd mariadb-install-db slurmdbd slurmctld slurmd; do
  command -v $program > /dev/null \
    || { echo "cluster: $program is missing (Debian: slurm-wlm slurmdbd munge mariadb-server)" >&2; exit 2; }
done
[ ! -e "$dir" ] || FMCT_CLUSTER_DIR=$dir bash "$(dirname "$0")/stop.sh"
mkdir -p "$dir"/{log,pid,db,state,spool,gpu}
chmod 755 "$dir"

# Seven consecutive free ports: 0 MariaDB, 1 slurmdbd, 2 slurmctld, 3 to 6 the nodes.
used() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }
port=17900
until ! (for p in $(seq $port $((port + 6))); do used "$p" && exit 0; done; exit 1); do port=$((port + 10)); done

head -c 128 /dev/urandom > "$dir/munge.key"
chmod 600 "$dir/munge.key"
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/pid/munged.pid" \
  --seed-file="$dir/munge.seed" --log-file="$dir/log/munged.log" 2>> "$dir/log/munged.log" || fail "munged"

mariadb-install-db --no-defaults --user=root --datadir="$dir/db" --skip-test-db \
  --auth-root-authentication-method=normal > "$dir/log/mariadb-install.log" 2>&1 || fail "mariadb-install-db"
mariadbd --no-defaults --user=root --datadir="$dir/db" --socket="$dir/db.socket" --pid-file="$dir/pid/mariadbd.pid" \
  --bind-address=127.0.0.1 --port="$port" --innodb-flush-log-at-trx-commit=0 > "$dir/log/mariadbd.log" 2>&1 &
database() { mariadb --no-defaults --socket="$dir/db.socket" --user=root "$@"; }
until_ok 60 MariaDB database --execute "SELECT 1"
database --execute "CREATE DATABASE slurm; CREATE USER slurm@localhost IDENTIFIED BY 'slurm';
  GRANT ALL ON slurm.* TO slurm@localhost" || fail "MariaDB refused the accounting tables"

cat > "$dir/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
DbdHost=localhost
DbdPort=$((port + 1))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$port
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
LogFile=$dir/log/slurmdbd.log
PidFile=$dir/pid/slurmdbd.pid
END
chmod 600 "$dir/slurmdbd.conf"

minor=200
for gpu in "$dir"/gpu/{0,1}; do
  # A character device that nothing opens: Slurm only checks that it exists.
  mknod "$gpu" c 1 $((minor += 1)) || fail "mknod"
done
echo "Name=gpu File=$dir/gpu/[0-1]" > "$dir/gres.conf"

# cred_expire (at least 5) is also how long a requeued job waits; the short intervals make tests quick.
cat > "$dir/slurm.conf" <<END
ClusterName=fmct
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((port + 2))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=8
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/pid/slurmctld.pid
SlurmdPidFile=$dir/pid/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
InactiveLimit=0
MinJobAge=600
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((port + 1))
AccountingStoragePass=$dir/munge.socket
AccountingStorageTRES=gres/gpu
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 3)) CPUs=4 Gres=gpu:2
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 4)) CPUs=4 Gres=gpu:2
NodeName=n3 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 5)) CPUs=4 Gres=gpu:2
NodeName=n4 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 6)) CPUs=4 Gres=gpu:2
PartitionName=low Nodes=n[1-4] Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 DefaultTime=10 MaxTime=1-0
PartitionName=high Nodes=n[1-4] PriorityTier=10 PreemptMode=OFF DefaultTime=10 MaxTime=1-0
END

slurmdbd || fail "slurmdbd"
until_ok 40 slurmdbd sacctmgr --noheader show cluster
sacctmgr --immediate add cluster fmct > "$dir/log/sacctmgr.log" 2>&1 || fail "sacctmgr"
sacctmgr --immediate add account test >> "$dir/log/sacctmgr.log" 2>&1 || fail "sacctmgr"
sacctmgr --immediate add user root account=test >> "$dir/log/sacctmgr.log" 2>&1 || fail "sacctmgr"
slurmctld || fail "slurmctld"
for node in n1 n2 n3 n4; do
  slurmd -N $node || fail "slurmd $node"
done
until_ok 60 "Slurm's four nodes" idle_nodes
echo "cluster: up in $dir"
sinfo
