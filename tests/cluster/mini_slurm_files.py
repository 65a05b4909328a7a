"""The files of a throw-away Slurm cluster: slurm.conf, gres.conf, hosts, and the script that is a node's first process.

Written for Slurm 22.05 as Debian 12 packages it; without cgroups, accounting or a network outside the machine.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

COMMANDS = ("slurmctld", "slurmd", "munged", "munge", "sbatch", "scontrol", "unshare", "setpriv", "ip")
PACKAGES = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge iproute2"
SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Node:
    """One virtual node. CPUs and memory are what it claims, not what the machine has."""

    name: str
    cpus: int
    memory_mb: int
    feature: str
    gpus: int = 0

    @property
    def gres(self) -> str:
        """The node's GRES line, such as gpu:a100:2; empty without GPUs."""
        return f"gpu:{self.feature}:{self.gpus}" if self.gpus else ""


NODES = (
    Node("c1", 8, 16000, "cpu"),
    Node("a1", 8, 16000, "a100", gpus=2),
    Node("a2", 8, 16000, "a100", gpus=2),
    Node("s1", 4, 8000, "t4", gpus=1),
)

PARTITIONS = (
    "PartitionName=cpu Nodes=c1 Default=YES State=UP",
    "PartitionName=gpuA Nodes=a[1-2] PriorityTier=10 State=UP",
    "PartitionName=gpuAhi Nodes=a[1-2] PriorityTier=100 PreemptMode=OFF State=UP",
    "PartitionName=gpuS Nodes=s1 PriorityTier=10 State=UP",
)

# cred_expire is also how long a requeued job waits before it may start again (Slurm's own default: 120 s).
SLURM_CONF = """\
ClusterName=mini
SlurmctldHost={host}({prefix}.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket,cred_expire={requeue_delay}
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,sched_interval=2,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PriorityType=priority/basic
JobRequeue=1
ReturnToService=2
KillWait=30
OverTimeLimit=0
MinJobAge=86400
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=15
MessageTimeout=30
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobcomp.txt
"""

# The first process of a node: names it, waits for its network cable, runs slurmd and reaps what jobs leave.
NODE_SCRIPT = """\
set -u
folder=$1 name=$2 address=$3 gateway=$4
hostname "$name" && mount --bind "$folder/etc/hosts" /etc/hosts || exit 90
[ -e /etc/resolv.conf ] && mount --bind "$folder/etc/resolv.conf" /etc/resolv.conf
for _ in $(seq 1000); do ip link show ms0 >/dev/null 2>&1 && break; sleep 0.01; done
ip link set lo up && ip addr add "$address/24" dev ms0 && ip link set ms0 up || exit 92
ip route add default via "$gateway" || exit 93
for _ in $(seq 1000); do [ -e "$folder/run/$name.go" ] && break; sleep 0.01; done
slurmd -D -f "$folder/etc/slurm.conf" -N "$name" &
wait
"""

# A requeue sends SIGTERM to every process of the job, the `scontrol requeue` of submitit 1.5 among them, which then
# takes the requeued job for a failed one. triagekit's own requeue does not need this.
PATIENT_SCONTROL = '#!/bin/sh\ntrap "" TERM\nexec {scontrol} "$@"\n'


def prefix_of(port: int) -> str:
    """First three numbers of the cluster's own network, one a port."""
    return f"10.{192 + port // 256 % 64}.{port % 256}"


def address_of(port: int, index: int) -> str:
    """Address of the node with this index."""
    return f"{prefix_of(port)}.{11 + index}"


def write_cluster_files(folder: Path, port: int, requeue_delay: int, extra: tuple[str, ...]) -> None:
    """Fill etc/, dev/ and bin/ below `folder`."""
    for name in ("etc", "log", "run", "controller", "spool", "dev", "bin"):
        (folder / name).mkdir(exist_ok=True)
    etc = folder / "etc"
    key = etc / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    host, prefix = platform.node().split(".")[0], prefix_of(port)
    lines = [SLURM_CONF.format(host=host, prefix=prefix, port=port, folder=folder, requeue_delay=requeue_delay)]
    gres = ["AutoDetect=off"]
    hosts = ["127.0.0.1 localhost", f"{prefix}.1 {host}"]
    for index, node in enumerate(NODES):
        address = address_of(port, index)
        hosts.append(f"{address} {node.name}")
        (folder / "spool" / node.name).mkdir(exist_ok=True)
        line = (
            f"NodeName={node.name} NodeHostname={node.name} NodeAddr={address} Port={port} CPUs={node.cpus} Sockets=1 "
            f"CoresPerSocket={node.cpus} ThreadsPerCore=1 RealMemory={node.memory_mb} Feature={node.feature}"
        )
        if node.gpus:
            devices = _make_devices(folder / "dev" / node.name, node.gpus)
            gres += [f"NodeName={node.name} Name=gpu Type={node.feature} File={device}" for device in devices]
            line += f" Gres={node.gres}"
        lines.append(line)
    lines += [*PARTITIONS, *extra]
    (etc / "slurm.conf").write_text("\n".join(lines) + "\n")
    (etc / "gres.conf").write_text("\n".join(gres) + "\n")
    (etc / "hosts").write_text("\n".join(hosts) + "\n")
    # With a name server, each look-up of an unknown name would take 5 to 30 s on an isolated node.
    (etc / "resolv.conf").write_text("# no name server\n")
    (etc / "cgroup.conf").touch()
    (etc / "plugstack.conf").touch()
    (etc / "node.sh").write_text(NODE_SCRIPT)
    wrapper = folder / "bin" / "scontrol"
    wrapper.write_text(PATIENT_SCONTROL.format(scontrol=shutil.which("scontrol")))
    wrapper.chmod(0o755)
    (folder / "bin" / "sacct").symlink_to(Path(__file__).with_name("mini_slurm_sacct.py"))


def _make_devices(folder: Path, count: int) -> list[Path]:
    """Fake GPUs. Slurm sets CUDA_VISIBLE_DEVICES only for character devices; these are the null device's."""
    folder.mkdir(exist_ok=True)
    devices = [folder / f"nvidia{number}" for number in range(count)]
    for device in devices:
        try:
            os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except OSError:
            device.symlink_to("/dev/null")
    return devices


def why_not_here() -> str | None:
    """Why no cluster can be started on this machine; None when one can."""
    if os.geteuid() != 0:
        return "a Slurm cluster of several nodes on one machine needs root (network namespaces)"
    missing = [command for command in COMMANDS if shutil.which(command, path=search_path()) is None]
    if missing:
        return f"missing commands: {', '.join(missing)}. Debian: {PACKAGES}"
    trial = ["unshare", "--pid", "--fork", "--uts", "--mount", "--net", "--mount-proc", "true"]
    result = subprocess.run(trial, capture_output=True, text=True, env={"PATH": search_path()})
    return None if result.returncode == 0 else f"no namespaces here: {result.stderr.strip()}"


def search_path() -> str:
    """PATH with the folders where Debian puts daemons."""
    return f"{os.environ.get('PATH', '')}:{SEARCH_PATH}".lstrip(":")
