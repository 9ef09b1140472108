#!/usr/bin/env bash
# Starts Slurm as root: a controller and one node on this machine, with all they write in the directory given.
# SLURM_CONF=DIR/slurm.conf then makes Slurm's programs speak to it.
set -euo pipefail
home=$1
host=$(hostname -s)
# Ports of their own, so that two of these, or a Slurm of the machine itself, do not meet.
port=$((20000 + $$ % 20000))

mkdir -p "$home"/{state,spool,munge}
chmod 755 "$home" "$home/munge"
head -c 1024 /dev/urandom >"$home/munge/key"
chmod 600 "$home/munge/key"
chown -R munge: "$home/munge"

cat >"$home/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthInfo=socket=$home/munge/socket
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd.pid
SlurmctldLogFile=$home/slurmctld.log
SlurmdLogFile=$home/slurmd.log
SlurmctldPort=$port
SlurmdPort=$((port + 1))
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
MailProg=/bin/true
NodeName=$host NodeAddr=127.0.0.1 CPUs=2
PartitionName=main Nodes=$host Default=YES State=UP
CONF
export SLURM_CONF=$home/slurm.conf

runuser -u munge -- /usr/sbin/munged --key-file="$home/munge/key" --socket="$home/munge/socket" \
    --pid-file="$home/munge/pid" --log-file="$home/munge/log" --seed-file="$home/munge/seed"
/usr/sbin/slurmctld
/usr/sbin/slurmd
for _ in $(seq 100); do
    [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && exit
    sleep 0.1
done
echo "the node does not come up:" >&2
cat "$home"/*.log >&2
exit 1
