"""Help of options that several commands have."""

MODEL = "your network: an nn.Module, or a function that returns one"
DEVICE = "where to compute, such as cpu or cuda (default: where the network is)"
SEED = "seed of all random numbers (default 0)"
ROOT = "folder of the data sets"
OUT = "folder to write the result into"
CHECKPOINTS = (
    "a quoted pattern such as 'ckpt/*.safetensors', or a folder of Lightning, of Hugging Face's "
    "Trainer or of files; repeat the option for more files"
)
VARIANCE = "share of a class's variance that a MASC subspace keeps"
TABLE_MEMORY = "memory to decode with, beside the network and the data (default 4GiB)"
