"""Runs on this machine: a pool of workers."""
