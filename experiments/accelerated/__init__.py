"""The parts of ``experiments/accelerator.py``, one file each; a part runs in a process of its own.

A part is a function ``measure(options, tell)``: what it finds it tells at once, so that one whose
time is up, or that crashes, keeps what it had.
"""
