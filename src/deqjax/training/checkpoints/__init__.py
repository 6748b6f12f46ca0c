"""Saving, verifying and restoring states: what must hold when a process dies at any moment.

The launch opens the checkpoints, the loop saves, finished runs restore. Nothing in here knows
what a state means, how it is updated, or which devices hold it.
"""
