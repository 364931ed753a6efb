"""Checks on a GPU that need no more than the machine has; scripts/gpu-check.sh runs them."""
