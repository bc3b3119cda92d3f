#!/usr/bin/env bash
# Starts a private SLURM cluster on this machine: munged, slurmctld, slurmd, and with
# SLURM_ACCOUNTING=1 also mariadbd and slurmdbd. For tests and for trying things out.
#
#   eval "$(scripts/slurm_up.sh FOLDER)"     # exports SLURM_CONF; sbatch, squeue … now use it
#   scripts/slurm_down.sh FOLDER [--purge]   # ends what this started, and nothing else
#
# Everything lives in FOLDER (at most 80 characters long: it holds sockets). No systemd, no cgroups,
# root or not, any host name, several clusters side by side. Called again it starts what has died.
# Debian: apt-get install slurm-wlm munge
#         slurmdbd mariadb-server-core mariadb-client-core slurm-wlm-mysql-plugin  (accounting)
#
# Settings: SLURM_CPUS (of each node; may exceed the real number), SLURM_MEMORY_MIB, SLURM_NODES,
#           SLURM_ACCOUNTING=1, SLURM_EXTRA_CONF (a file appended to slurm.conf).
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin" LC_ALL=C
umask 022

say() { echo "slurm_up: $*" >&2; }
fail() {
  say "ERROR: $*"
  for log in "$home"/log/*.log; do
    if [ -s "$log" ]; then echo "--- $log" >&2; tail -n 12 "$log" >&2; fi
  done
  exit 1
}

[ $# -ge 1 ] || { say "usage: slurm_up.sh FOLDER"; exit 2; }
mkdir -p "$1"
home=$(cd "$1" && pwd -P)
[ -O "$home" ] || { say "$home belongs to somebody else"; exit 1; }
chmod 755 "$home"
mkdir -p "$home"/{log,run,state,spool,munge}
chmod 700 "$home/munge"
[ ${#home} -le 80 ] || fail "$home is too long a path for a socket"

cpus=${SLURM_CPUS:-$(nproc)}
nodes=${SLURM_NODES:-1}
memory=${SLURM_MEMORY_MIB:-$(awk '/^MemTotal:/ {print int($2 / 1024 * 0.8)}' /proc/meminfo)}
accounting=${SLURM_ACCOUNTING:-0}
user=$(id -un)
host=$(cat /proc/sys/kernel/hostname)
host=${host%%.*}
conf=$home/slurm.conf

need() {
  local program
  for program in "${@:2}"; do
    command -v "$program" >/dev/null || fail "$program is not installed: apt-get install $1"
  done
}
need "slurm-wlm munge" munged mungekey munge slurmctld slurmd sinfo scontrol

exec 9>"$home/run/lock"
flock -w 120 9 || fail "another slurm_up.sh is at work in $home"

# --- helpers ---

# alive NAME PROGRAM: the daemon whose pid stands in run/NAME.pid lives and belongs to this folder
alive() {
  local pid
  pid=$(cat "$home/run/$1.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] || return 1
  grep -qzsF "$home/" "/proc/$pid/environ" "/proc/$pid/cmdline"
}

# until_true SECONDS WHAT COMMAND…
until_true() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until timeout 10 "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || fail "$what is not ready in time"
    sleep 0.05
  done
}

free_port() {
  local port
  for _ in $(seq 300); do
    port=$((21000 + (RANDOM * 32768 + RANDOM) % 11000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  fail "no free port"
}

# --- configuration, once ---

write_conf() {
  cat <<CONF
ClusterName=private
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# A requeued job may start again only once its old credential has expired: 5 s instead of 120 s.
AuthInfo=socket=$home/run/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool/%n
SlurmctldLogFile=$home/log/slurmctld.log
SlurmdLogFile=$home/log/slurmd-%n.log
SlurmctldPidFile=$home/run/slurmctld.pid
SlurmdPidFile=$home/run/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
# Memory limits by looking once a second: there are no cgroups to enforce them.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
# Schedule at once.
SchedulerParameters=batch_sched_delay=0,sched_min_interval=20000,sched_interval=3,bf_interval=3
CONF
  if [ "$accounting" = 1 ]; then
    cat <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$1
AccountingStoragePass=$home/run/munge.sock
CONF
  fi
  local n
  for n in $(seq 0 $((nodes - 1))); do
    echo "NodeName=n$n NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=$cpus RealMemory=$memory"
  done
  echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP"
  if [ -n "${SLURM_EXTRA_CONF:-}" ]; then cat "$SLURM_EXTRA_CONF"; fi
}

write_dbd_conf() {
  cat <<CONF
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$1
SlurmUser=$user
AuthType=auth/munge
AuthInfo=socket=$home/run/munge.sock
LogFile=$home/log/slurmdbd.log
PidFile=$home/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=$user
StorageLoc=slurm_acct_db
CONF
}

if [ ! -f "$conf" ]; then
  dbd_port=$(free_port)
  if [ "$accounting" = 1 ]; then (umask 077; write_dbd_conf "$dbd_port" >"$home/slurmdbd.conf"); fi
  write_conf "$dbd_port" >"$conf.new"
  mv "$conf.new" "$conf"
fi
export SLURM_CONF=$conf

# --- daemons (descriptor 9 is the lock: they must not inherit it) ---

if ! alive munged munged; then
  rm -f "$home"/run/munge.sock*
  if [ ! -f "$home/munge/key" ]; then
    mungekey --create --keyfile="$home/munge/key" >&2
    chmod 400 "$home/munge/key"
  fi
  munged --key-file="$home/munge/key" --socket="$home/run/munge.sock" --num-threads=2 \
    --pid-file="$home/run/munged.pid" --seed-file="$home/munge/seed" \
    --log-file="$home/log/munged.log" 9>&- >&2 || fail "munged does not start"
  until_true 15 munged munge -n -S "$home/run/munge.sock"
fi

if grep -q '^AccountingStorageType=' "$conf"; then
  need "slurmdbd mariadb-server-core mariadb-client-core slurm-wlm-mysql-plugin" \
    slurmdbd mariadbd mariadb-install-db
  export MYSQL_UNIX_PORT=$home/run/mysql.sock
  if ! alive mariadbd mariadbd; then
    options=(--no-defaults "--datadir=$home/db" --innodb-buffer-pool-size=16M
      --innodb-log-file-size=8M --innodb-flush-log-at-trx-commit=0
      --innodb-lock-wait-timeout=900 --performance-schema=OFF)
    if [ ! -d "$home/db/mysql" ]; then
      rm -rf "$home/db"
      mariadb-install-db "${options[@]}" --user="$user" --skip-test-db \
        --auth-root-authentication-method=socket --auth-root-socket-user="$user" \
        9>&- >"$home/log/mariadb-install.log" 2>&1 || fail "mariadb-install-db"
    fi
    rm -f "$home/run/mariadbd.pid"
    setsid mariadbd "${options[@]}" --user="$user" --socket="$MYSQL_UNIX_PORT" --skip-networking \
      --skip-log-bin --pid-file="$home/run/mariadbd.pid" \
      </dev/null 9>&- >"$home/log/mariadbd.log" 2>&1 &
    until_true 60 mariadbd test -S "$MYSQL_UNIX_PORT" -a -s "$home/run/mariadbd.pid"
  fi
  if ! alive slurmdbd slurmdbd; then
    slurmdbd 9>&- >&2 || fail "slurmdbd does not start"
    until_true 60 slurmdbd sacctmgr --noheader --immediate show cluster
  fi
fi

# Started by their full paths: a daemon re-executes itself by the name that it was called.
if ! alive slurmctld slurmctld; then
  "$(command -v slurmctld)" 9>&- >&2 || fail "slurmctld does not start"
fi
answers() { scontrol ping 2>/dev/null | grep -q UP; }
deadline=$((SECONDS + 30))
until answers; do
  [ $SECONDS -lt $deadline ] || fail "slurmctld does not answer (it needs a network interface besides loopback)"
  sleep 0.05
done
for node in $(sed -n 's/^NodeName=\([^ ]*\) .*/\1/p' "$conf"); do
  if ! alive "slurmd-$node" slurmd; then
    "$(command -v slurmd)" -N "$node" 9>&- >&2 || fail "slurmd on $node does not start"
  fi
done

# A node that an accident left down or drained is taken back.
deadline=$((SECONDS + 60))
while true; do
  states=$(sinfo --noheader --Node --format='%N %T' 2>/dev/null || true)
  if [ -n "$states" ] && ! grep -qvE ' (idle|mixed|allocated|completing)$' <<<"$states"; then break; fi
  awk '$2 ~ /^(down|drain|fail)/ {sub(/\*$/, "", $2); print $1}' <<<"$states" | sort -u |
    while read -r node; do scontrol update nodename="$node" state=resume 2>/dev/null || true; done
  [ $SECONDS -lt $deadline ] || fail "nodes are not ready: $states"
  sleep 0.1
done

say "$(sinfo --noheader --format='%D node(s), %c CPUs and %m MiB each, partition %P' | head -1) in $home"
echo "export SLURM_CONF=$conf"
