"""Help of options that several commands have."""

MODEL = "your network: an nn.Module, or a function that returns one"
DEVICE = "where to compute, such as cpu or cuda (default: where the network is)"
SEED = "seed of all random numbers (default 0)"
ROOT = "folder of the data sets"
OUT = "folder to write the result into"
VARIANCE = "share of a class's variance that a MASC subspace keeps"
