"""Features from disk, without any network: embeddings and their noisy labels.

The same on the command line: `underscript audit --train features.npy,labels.npy --out my-audit`.
"""

import numpy as np
from sklearn.datasets import load_digits

import underscript as us

# Yours: features (n, width) that some model gave, and a label for each.
X, true = load_digits(return_X_y=True)
np.save("features.npy", X[:1200].astype(np.float32))
np.save("labels.npy", us.corrupt_labels(true[:1200], 0.4, seed=0))

features, labels = np.load("features.npy", mmap_mode="r"), np.load("labels.npy")
decoding = us.decode(None, (features, labels), test=(X[1200:], true[1200:]), variance=0.75)
print(decoding.verdict)
print(decoding.label_issues().sort_values("label_quality").head())
decoding.save("my-run")
print(us.load("my-run").best.predict(X[1200:1210]))  # needs no network after loading either
