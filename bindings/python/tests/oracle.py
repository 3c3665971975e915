"""The formulas of salf.h written down in NumPy, in float64."""

import numpy as np


def pseudo_basis(head):
    """Row l of (W^+)^T."""
    return np.linalg.pinv(np.asarray(head, np.float64)).T


def cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def rms(states, eps, weight=1.0):
    states = np.asarray(states, np.float64)
    return states / np.sqrt((states**2).mean(-1, keepdims=True) + eps) * weight


def deviations(states, rows):
    """Cosine deviations [rows, spaces] of states [spaces, rows, D] from a basis row each; the norm, which has no
    weight, does not change a cosine."""
    return np.stack([1 - cosine(space, rows) for space in states], axis=1)


def all_cosines(states, table):
    """[spaces, rows, V]."""
    states, table = np.asarray(states, np.float64), np.asarray(table, np.float64)
    products = states @ table.T
    return products / np.linalg.norm(states, axis=-1)[..., None] / np.linalg.norm(table, axis=-1)


def probe(basis, labels, states, **options):
    """A whole batch through a probe."""
    import salf

    with salf.Probe(basis, **options) as made:
        made.begin(labels)
        for space, values in enumerate(states):
            made.observe(space, values)
        return made.end()
