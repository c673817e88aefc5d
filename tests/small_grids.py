"""Grids of digits small enough to run in a test."""

from underscript.experiments.plan import Plan

# Enough to go through everything; what is learnt does not matter here.
TINY = {"max_epochs": 3, "samples": 300}


def plan_of(*only, **settings):
    settings = {"corruptions": (0.0, 0.6), "runs": 2, **settings}
    return Plan("digits-mlp", only=only or ("E1", "E2"), **settings)


def rows(table, **values):
    for name, value in values.items():
        table = table[table[name] == value]
    return table
