"""Runs on a SLURM cluster: what is submitted, what became of it, what is to be done next."""
