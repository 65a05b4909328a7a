"""From settings and devices to running processes: plan, probe, start, rendezvous."""
