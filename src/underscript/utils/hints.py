"""What to use instead of names that do not exist but that people try."""

__all__ = [
    "CORRUPT_ARGUMENTS",
    "DECODER",
    "DECODE_ARGUMENTS",
    "DECODING",
    "OPTIONS",
    "RETRAIN_ARGUMENTS",
    "TRACE_ARGUMENTS",
]

_ISSUES = "label issues are in a table: decoding.label_issues()"
_CLEANED = "cleaned labels are in a table: decoding.relabel()"
_ACCURACY = "accuracies are in decoding.table; decoding.verdict says them in words"
_PLOTS = "figures are functions, such as us.plots.layer_curve(decoding); decoding.report(path)"
_FITTED = "us.decode has fitted it: decoding.best.predict(x)"

#: Attributes of `Decoding`.
DECODING = {
    "predict": "the decoded classifier is best: decoding.best.predict(x)",
    "predict_proba": "the decoded classifier is best: decoding.best.predict_proba(x)",
    "decision_function": "the decoded classifier is best: decoding.best.decision_function(x)",
    "module": "the decoded classifier as an nn.Module is decoding.best.module",
    "model": "the decoded classifier as an nn.Module is decoding.best.module, your network "
    "decoding.best.model",
    "network": "your network is decoding.best.model",
    "decoder": "the chosen decoder is decoding.best",
    "best_decoder": "the chosen decoder is decoding.best",
    "classifier": "the decoded classifier is best: decoding.best.predict(x)",
    "estimator": "the fitted estimator is decoding.best.estimator",
    "best_layer": "the layers that are read are decoding.best.layers",
    "layer": "the layers that are read are decoding.best.layers",
    "layers": "accuracies by layer are in decoding.table, the layers that are read in "
    "decoding.best.layers",
    "export": "decoding.best.export(path) writes an ONNX file",
    "to_onnx": "decoding.best.export(path) writes an ONNX file",
    "onnx": "decoding.best.export(path) writes an ONNX file",
    "fit": _FITTED,
    "fit_predict": _FITTED,
    "score": _ACCURACY,
    "accuracy": _ACCURACY,
    "accuracies": _ACCURACY,
    "metrics": _ACCURACY,
    "results": "the results are decoding.table and decoding.summary",
    "df": "the results are decoding.table",
    "to_frame": "the results are decoding.table",
    "to_csv": "write a table: decoding.table.to_csv(path); decoding.save(folder) writes all",
    "to_dict": "the results as a dict are decoding.summary",
    "to_json": "decoding.save(folder) writes results.json; the same as a dict is decoding.summary",
    "config": "settings are in decoding.summary",
    "settings": "settings are in decoding.summary",
    "noise": "what is estimated of the noise is in decoding.summary",
    "noise_rate": "what is estimated of the noise is in decoding.summary",
    "issues": _ISSUES,
    "find_label_issues": _ISSUES,
    "get_label_issues": _ISSUES,
    "find_issues": _ISSUES,
    "get_issues": _ISSUES,
    "label_errors": _ISSUES,
    "label_quality": _ISSUES,
    "suspicious": _ISSUES,
    "labels": _CLEANED,
    "clean_labels": _CLEANED,
    "cleaned_labels": _CLEANED,
    "fix_labels": _CLEANED,
    "predicted_labels": _ISSUES,
    "confusion_matrix": "the most confused classes are in decoding.confused_pairs()",
    "plot": _PLOTS,
    "plots": _PLOTS,
    "show": _PLOTS,
    "to_html": "decoding.report(path) writes one HTML file",
    "retrain": "it is a function: us.retrain(model, train, decoding)",
    "repair": "decoding.transfer() rewrites the network's last layer",
    "repaired": "decoding.transfer() rewrites the network's last layer",
    "load": "it is a function: us.load(folder)",
}

_OF_DECODING = "it belongs to the decoding: "

#: Attributes of a decoder, `Decoding.best`.
DECODER = {
    "score": _ACCURACY,
    "accuracy": _ACCURACY,
    "fit": "us.decode has fitted it: best.predict(x)",
    "predict_log_proba": "take the logarithm of best.predict_proba(x)",
    "predictions": "call best.predict(x)",
    "classes_": "the classes are best.estimator.classes_",
    "classes": "the classes are best.estimator.classes_",
    "coef_": "what was fitted is in best.estimator",
    "weights": "what was fitted is in best.estimator",
    "network": "the network is best.model",
    "to_onnx": "best.export(path) writes an ONNX file",
    "save": "decoding.save(folder) keeps it; best.export(path) writes an ONNX file",
    "load": "it is a function: us.load(folder, model)",
    "forward": "the decoder as an nn.Module is best.module",
    "eval": "the decoder as an nn.Module is best.module",
    "to": "the decoder as an nn.Module is best.module",
    "cpu": "the decoder as an nn.Module is best.module",
    "cuda": "the decoder as an nn.Module is best.module",
    "parameters": "the decoder as an nn.Module is best.module",
    "state_dict": "the decoder as an nn.Module is best.module",
    "table": f"{_OF_DECODING}decoding.table",
    "verdict": f"{_OF_DECODING}decoding.verdict",
    "summary": f"{_OF_DECODING}decoding.summary",
    "report": f"{_OF_DECODING}decoding.report(path)",
    "transfer": f"{_OF_DECODING}decoding.transfer()",
    "relabel": f"{_OF_DECODING}decoding.relabel()",
    "label_issues": f"{_OF_DECODING}decoding.label_issues()",
    "find_label_issues": f"{_OF_DECODING}decoding.label_issues()",
    "issues": f"{_OF_DECODING}decoding.label_issues()",
}

_TRAIN = "use train=: a Dataset, a DataLoader or a pair (x, y)"
_HOLDOUT = (
    "use holdout=: data with noisy labels that the network was not trained on; they choose "
    "the decoder. Clean ones that only measure are test="
)
_LABELS = "use labels=, or give train as a pair (x, y)"
_CLASS_NAMES = "use class_names=, in the order of the network's read-out"
_TRUE = "use true_labels=: the labels before corruption"

_DATA = {
    **dict.fromkeys(("x", "X", "data", "dataset", "inputs", "features"), _TRAIN),
    **dict.fromkeys(("train_loader", "train_data", "train_dataset", "trainset", "loader"), _TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev", "hold_out", "held_out"), _HOLDOUT),
    **dict.fromkeys(("val_data", "val_loader", "valid_data", "valid_loader"), _HOLDOUT),
    **dict.fromkeys(("test_data", "test_loader", "test_dataset"), "use test="),
    **dict.fromkeys(("net", "network", "classifier"), "use model="),
    **dict.fromkeys(("classes", "names", "label_names", "target_names"), _CLASS_NAMES),
    **dict.fromkeys(("n_classes", "num_classes"), "the network's read-out says how many there are"),
    **dict.fromkeys(("random_state", "random_seed"), "use seed="),
    **dict.fromkeys(("verbose", "quiet"), "use progress=True or False"),
}
_PROCESSES = (
    "several processes share the work with group= and torchrun; OMP_NUM_THREADS sets the threads"
)

#: Keyword arguments of `decode`.
DECODE_ARGUMENTS = {
    **_DATA,
    **dict.fromkeys(("y", "Y", "targets", "target", "label", "given_labels"), _LABELS),
    **dict.fromkeys(("clean", "clean_labels", "true", "y_true", "ground_truth"), _TRUE),
    **dict.fromkeys(
        ("noise", "noise_rate", "corruption"), "leave it out: it is estimated from the labels"
    ),
    **dict.fromkeys(
        ("epochs", "lr", "learning_rate", "optimizer"),
        "leave it out: decoding trains nothing; us.retrain does",
    ),
    **dict.fromkeys(("n_jobs", "jobs", "num_workers", "workers"), _PROCESSES),
    **dict.fromkeys(("layer", "layer_names"), "use layers="),
    **dict.fromkeys(("probe", "method", "decoder"), "use probes="),
    **dict.fromkeys(("augment", "augmentation", "transform", "perturbation"), "use perturb="),
    **dict.fromkeys(("n_views", "num_views"), "use views="),
    **dict.fromkeys(("pooling",), "use pool="),
    **dict.fromkeys(("out", "output", "save", "path"), "save the result: decode(…).save(folder)"),
    "weights": "load them first: model.load_state_dict(…)",
    "checkpoint": "load it first: model.load_state_dict(…); earlier ones of the same training are "
    "checkpoints=",
    **dict.fromkeys(("ckpt", "ckpts"), "use checkpoints=: earlier ones of the same training"),
}

#: Keyword arguments of `trace`.
TRACE_ARGUMENTS = {
    **DECODE_ARGUMENTS,
    **dict.fromkeys(
        ("weights", "checkpoint", "ckpt", "ckpts", "paths", "files", "folder"), "use checkpoints="
    ),
    **dict.fromkeys(("output", "save", "path"), "use out=: a folder"),
    "steps": "give checkpoints= as a mapping from step to file",
    "controls": "leave it out: only the network's checkpoints are decoded; us.decode has controls",
}
TRACE_ARGUMENTS.pop("out")

#: Keyword arguments of `retrain`.
RETRAIN_ARGUMENTS = {
    **_DATA,
    **dict.fromkeys(
        ("decoding", "run", "y", "targets", "issues"),
        "use labels=: a decoding, its relabel(), or labels by index",
    ),
    **dict.fromkeys(("lr", "rate"), "use learning_rate="),
    **dict.fromkeys(("n_epochs", "num_epochs", "max_epochs"), "use epochs="),
}

#: Keyword arguments of `corrupt_labels`.
CORRUPT_ARGUMENTS = {
    **dict.fromkeys(("rate", "noise", "p", "c", "fraction", "corruption"), "use degree="),
    **dict.fromkeys(("labels", "targets"), "use y="),
    **dict.fromkeys(("k", "num_classes", "classes"), "use n_classes="),
    **dict.fromkeys(("type", "mode", "noise_type"), "use kind="),
    **dict.fromkeys(("matrix", "T", "noise_matrix"), "use transition="),
    **dict.fromkeys(("logits", "probabilities", "probs", "posterior"), "use scores="),
    **dict.fromkeys(("X", "x", "embeddings", "inputs"), "use features="),
    **dict.fromkeys(("n_clusters", "centres", "centers"), "use clusters="),
    **dict.fromkeys(("random_state", "rng"), "use seed="),
}

#: Options of the command line, and those that take their place where a command has them.
OPTIONS = {
    **dict.fromkeys(
        ("--val", "--valid", "--validation", "--dev", "--hold-out", "--val-data"), "--holdout"
    ),
    **dict.fromkeys(
        ("--names", "--class-names", "--class_names", "--label-names", "--labels-file"), "--classes"
    ),
    **dict.fromkeys(("--output", "--out-dir", "--output-dir", "--save", "-o"), "--out"),
    **dict.fromkeys(("--data", "--dataset", "--train-data", "--x", "--input"), "--train"),
    **dict.fromkeys(("--test-data",), "--test"),
    **dict.fromkeys(("--y", "--targets", "--given-labels"), "--labels"),
    **dict.fromkeys(("--clean", "--clean-labels", "--truth"), "--true-labels"),
    **dict.fromkeys(("--checkpoint", "--ckpt", "--state-dict"), "--weights"),
    **dict.fromkeys(("--net", "--network", "-m"), "--model"),
    **dict.fromkeys(("--lr",), "--learning-rate"),
    **dict.fromkeys(("--random-state", "--random-seed"), "--seed"),
    **dict.fromkeys(("--gpu", "--cuda"), "--device"),
    **dict.fromkeys(("--augment", "--perturbation"), "--perturb"),
    **dict.fromkeys(("--pooling",), "--pool"),
}
