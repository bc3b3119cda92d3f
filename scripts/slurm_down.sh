#!/usr/bin/env bash
# Ends the private cluster that slurm_up.sh started in FOLDER: its jobs, then its daemons.
#   scripts/slurm_down.sh FOLDER [--purge]      (--purge removes FOLDER too)
# Only processes that stand in FOLDER/run/*.pid and still are that daemon of that folder are ended.
set -uo pipefail
export PATH="$PATH:/usr/sbin:/sbin" LC_ALL=C

say() { echo "slurm_down: $*" >&2; }
[ $# -ge 1 ] || { say "usage: slurm_down.sh FOLDER [--purge]"; exit 2; }
[ -d "$1/run" ] || { say "there is no cluster in $1"; exit 0; }
home=$(cd "$1" && pwd -P)
export SLURM_CONF=$home/slurm.conf

# pid_of PIDFILE PROGRAM: prints the pid if it is our daemon
pid_of() {
  local pid
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] || return 1
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] || return 1
  grep -qzsF "$home/" "/proc/$pid/environ" "/proc/$pid/cmdline" || return 1
  echo "$pid"
}

gone() { [ ! -d "/proc/$1" ] || [ "$(awk '/^State/ {print $2}' "/proc/$1/status" 2>/dev/null)" = Z ]; }

# end PIDFILE PROGRAM SECONDS
end() {
  local pid
  pid=$(pid_of "$1" "$2") || return 0
  kill -TERM "$pid" 2>/dev/null
  for _ in $(seq $(($3 * 20))); do
    gone "$pid" && { rm -f "$1"; return; }
    sleep 0.05
  done
  say "$2 ($pid) does not end: killed"
  kill -KILL "$pid" 2>/dev/null
  rm -f "$1"
}

queued() { timeout 10 squeue --noheader --states=R,CG,S,PD --format=%A 2>/dev/null; }
if pid_of "$home/run/slurmctld.pid" slurmctld >/dev/null && timeout 5 scontrol ping 2>/dev/null | grep -q UP; then
  jobs=$(queued)
  if [ -n "$jobs" ]; then
    # shellcheck disable=SC2086
    timeout 20 scancel --signal=KILL --full $jobs 2>/dev/null
    # shellcheck disable=SC2086
    timeout 20 scancel $jobs 2>/dev/null
    for _ in $(seq 150); do [ -z "$(queued)" ] && break; sleep 0.1; done
  fi
fi

for file in "$home"/run/slurmd-*.pid; do [ -f "$file" ] && end "$file" slurmd 10; done
end "$home/run/slurmctld.pid" slurmctld 15
end "$home/run/slurmdbd.pid" slurmdbd 15
end "$home/run/mariadbd.pid" mariadbd 20
end "$home/run/munged.pid" munged 10
# A job's step outlives its node's daemon; what was started for this folder's cluster goes too.
for environ in /proc/[0-9]*/environ; do
  pid=${environ#/proc/}; pid=${pid%/environ}
  if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = slurmstepd ] && grep -qzsF "SLURM_CONF=$SLURM_CONF" "$environ"; then
    kill -KILL "$pid" 2>/dev/null
  fi
done
if [ "${2:-}" = --purge ]; then rm -rf "$home"; fi
say "ended the cluster in $home"
