"""Classifiers of one layer's rows: subspaces, discriminants, ensembles of them, and baselines."""
