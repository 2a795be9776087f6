"""Slices: fixed, numbered, half-open intervals of experiment time, and who owns them."""

from __future__ import annotations


def slice_of(t_ns: int, length_ns: int) -> int:
    """The slice that holds experiment time `t_ns`."""
    return t_ns // length_ns


def partition(k: int, partitions: int) -> int:
    """The partition of slice `k`, the same in every topic.

    The second term turns the assignment by one each round, so that a spill cycle which divides
    the number of partitions does not load the same ones for ever.
    """
    return (k + k // partitions) % partitions


def next_in(p: int, k: int, partitions: int) -> int:
    """The first slice after `k` that belongs to partition `p`."""
    return first_in(p, k + 1, partitions)


def first_in(p: int, k: int, partitions: int) -> int:
    """The first slice at or after `k` that belongs to partition `p`.

    A round of `partitions` slices meets every partition once, so the slice is in this round or
    the next.
    """
    for this_round in (k // partitions, k // partitions + 1):
        candidate = this_round * partitions + (p - this_round) % partitions
        if candidate >= k:
            return candidate
    raise AssertionError("every round holds every partition")
