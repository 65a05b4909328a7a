"""Slurm, and nothing else in triagekit knows Slurm: sites, batch scripts, submission, requeueing, tables of jobs.

Nothing here imports torch: jobs are written and submitted on login nodes.
"""
