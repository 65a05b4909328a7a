"""A cluster that exists only as what `scontrol` would print of it: two GPU partitions, a CPU one, limits of all kinds."""

from __future__ import annotations

from triagekit.cluster.live_cluster import LiveCluster, parse_cluster

CONFIG = """Configuration data as of 2026-01-01T00:00:00
AccountingStorageEnforce = associations,limits,qos
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = paper
EnforcePartLimits       = NO
GresTypes               = gpu
JobRequeue              = 1
KillWait                = 30 sec
MaxArraySize            = 1001
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
SLURM_VERSION           = 23.11.4
SlurmctldParameters     = enable_configless,preempt_send_user_signal

Slurmctld(primary) at head is UP
"""

PARTITION = (
    "PartitionName={name} AllowGroups=ALL AllowAccounts={accounts} AllowQos={qos} Default={default} QoS=N/A "
    "DefaultTime={default_time} GraceTime={grace} Hidden=NO MaxNodes=UNLIMITED MaxTime={limit} Nodes={nodes} "
    "PriorityTier={tier} PreemptMode={mode} State={state} TotalCPUs=64 TotalNodes={count}\n"
)
NODE = (
    "NodeName={name} Arch=x86_64 CPUTot={cpus} AvailableFeatures={features} ActiveFeatures={features} Gres={gres} "
    "NodeAddr={name} OS=Linux 5.14.0 #1 SMP x=1 PREEMPT  RealMemory={memory} AllocMem=0 Sockets=2 State={state} "
    "ThreadsPerCore=1 Partitions={partitions}  BootTime=None Reason=kernel=5 panic [root@2026-01-01T00:00:00]\n"
)


def partition(name: str, nodes: str, count: int, **other: object) -> str:
    """One line of `scontrol --oneliner show partition`."""
    values = {"accounts": "ALL", "qos": "ALL", "default": "NO", "default_time": "NONE", "grace": 60, "tier": 1}
    values |= {"limit": "4-00:00:00", "mode": "REQUEUE", "state": "UP"}
    return PARTITION.format(name=name, nodes=nodes, count=count, **(values | other))


def node(name: str, partitions: str, **other: object) -> str:
    """One line of `scontrol --oneliner show node`."""
    values = {"cpus": 32, "features": "(null)", "gres": "(null)", "memory": 256000, "state": "IDLE"}
    return NODE.format(name=name, partitions=partitions, **(values | other))


def paper_cluster(config: dict[str, str] | None = None, partitions: str = "", nodes: str = "") -> LiveCluster:
    """`config` changes settings (`{"JobRequeue": "0"}`); further partitions and nodes are added to the usual ones."""
    text = CONFIG
    for name, value in (config or {}).items():
        text = "\n".join(line for line in text.splitlines() if not line.startswith(f"{name} "))
        text += f"\n{name} = {value}\n"
    shown = {
        "config": text,
        "partition": partition("cpu", "c[1-2]", 2, default="YES", limit="7-00:00:00", default_time="01:00:00", tier=10)
        + partition("a100", "g[1-2]", 2)
        + partition("urgent", "g[1-2]", 2, tier=100, mode="OFF", accounts="hospital,police", qos="urgent")
        + partition("old", "t1", 1, mode="OFF")
        + partitions,
        "node": node("c1", "cpu")
        + node("c2", "cpu", state="MIXED+DRAIN", memory=512000)
        + node("g1", "a100,urgent", gres="gpu:a100:4(S:0-1),shard:8", features="a100_80g,infiniband", memory=512000)
        + node("g2", "a100,urgent", gres="gpu:a100:2", features="a100_40g", memory=1024000)
        + node("t1", "old", gres="gpu:1", cpus=8, memory=32000)
        + nodes,
    }
    return parse_cluster(shown.__getitem__)
