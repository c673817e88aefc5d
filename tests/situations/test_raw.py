"""Kinds of situations that ended in raw errors, or were refused: they work, or are told plainly."""

import argparse
import json
import re
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from situation_data import (
    FLAG,
    blobs,
    features,
    memorise,
    mlp,
    share_right,
    situation,
)
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, IterableDataset

import models
import underscript as us
from underscript.cli.command_line import main
from underscript.errors import UnderscriptError

pytestmark = pytest.mark.filterwarnings("ignore::underscript.errors.UnderscriptWarning")


def decoded(net, *data, **settings):
    settings.setdefault("controls", False)
    return us.decode(net, *data, progress=False, **settings)


def hooks(net):
    return sum(
        len(each) for m in net.modules() for each in (m._forward_hooks, m._forward_pre_hooks)
    )


def scripted(whole):
    net, data = situation()
    if whole:
        return torch.jit.script(net), data
    body = torch.jit.script(net[:2])
    return nn.Sequential(OrderedDict(body=body, rest=net[2:])), data


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_kind_24_torchscript_is_read_where_it_can_be(whole):
    net, data = scripted(whole)
    before = None if whole else hooks(net)
    if whole:
        with pytest.raises(UnderscriptError, match="TorchScript"):
            decoded(net, (data.x, data.given))
    else:
        d = decoded(net, (data.x, data.given))
        assert share_right(d, data.test, data.test_true) > 0.9
    if before is not None:
        assert hooks(net) == before
        assert hooks(net.rest) == 0


@pytest.mark.slow
def test_kind_25_float64_by_default_and_autocast():
    net, data = situation()
    plain = decoded(net, (data.x, data.given)).label_issues()
    torch.set_default_dtype(torch.float64)
    try:
        other = decoded(net, (data.x, data.given)).label_issues()
    finally:
        torch.set_default_dtype(torch.float32)
    assert (plain[FLAG] == other[FLAG]).mean() > 0.99
    with torch.autocast("cpu", dtype=torch.bfloat16):
        other = decoded(net, (data.x, data.given)).label_issues()
    assert (plain[FLAG] == other[FLAG]).mean() > 0.95
    with torch.inference_mode():
        other = decoded(net, (data.x, data.given)).label_issues()
    assert (plain[FLAG] == other[FLAG]).mean() > 0.99


MODEL_FILE = """
import torch
from torch import nn
from situation_data import mlp
def lazy():
    return nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(64), nn.ReLU(), mlp().out)
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(20, 20)
        self.b = nn.Linear(20, 20)
        self.b.weight = self.a.weight
        self.out = nn.Linear(20, 4)
    def forward(self, x):
        return self.out(torch.relu(self.b(torch.relu(self.a(x)))))
data = torch.load("data.pt", weights_only=True)
train = data["x"], data["given"]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    _, data = situation()
    torch.save({"x": data.x, "given": data.given}, tmp_path / "data.pt")
    (tmp_path / "mine_situations.py").write_text(MODEL_FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("mine_situations", None)


def decode_command(model, train, *arguments):
    return main(
        ["decode", "--model", model, "--train", train, *arguments, "--no-controls", "--out", "run"]
    )


@pytest.mark.slow
def test_kind_26_lazy_layers_take_weights(folder):
    _, data = situation()
    import mine_situations

    net = mine_situations.lazy()
    net(data.x[:2])
    memorise(net, data.x, data.given, 20)
    torch.save(net.state_dict(), "w.pt")
    assert decode_command("mine_situations:lazy", "mine_situations:train", "--weights", "w.pt") == 0


@pytest.mark.parametrize("what", ["state dict", "path", "class", "exported", "no columns"])
def test_kind_27_what_is_no_model_is_said_plainly(what):
    net, data = situation()
    x = data.x[:, :0] if what == "no columns" else data.x
    make, word = {
        "state dict": (net.state_dict, "load_state_dict"),
        "path": (lambda: "model.pt", "path"),
        "class": (lambda: nn.Linear, "class"),
        "exported": (lambda: torch.export.export(net, (data.x[:4],)), "ExportedProgram"),
        "no columns": (lambda: None, "column"),
    }[what]
    model = make()
    with pytest.raises(UnderscriptError) as caught:
        decoded(model, (x, data.given))
    assert word in str(caught.value)


def test_kind_27_a_tensor_that_requires_grad():
    net, data = situation()
    x = data.x.clone().requires_grad_()
    d = decoded(net, (x, data.given))
    assert share_right(d, data.test, data.test_true) > 0.9
    d = decoded(None, (x, data.given))
    assert share_right(d, data.test.clone().requires_grad_(), data.test_true) > 0.9


def test_kind_28_three_of_anything_is_no_batch():
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.out = nn.Linear(20, 64), parametrizations.weight_norm(nn.Linear(64, 3))

        def forward(self, x):
            return self.out(torch.relu(self.fc(x)))

    data = blobs(k=3)
    d = decoded(memorise(Three(), data.x, data.given), (data.x, data.given))
    names = [layer["layer"] for layer in d.summary["layers"]]
    assert not any("parametrizations" in name for name in names)
    assert share_right(d, data.test, data.test_true) > 0.9
    # Also with as many samples as classes, or as columns.
    for n in (3, 20, 64):
        decoded(memorise(Three(), data.x[:n], data.given[:n], 2), (data.x[:n], data.given[:n]))


def test_kind_29_a_block_may_return_a_dict_with_any_keys():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(20, 64)

        def forward(self, x):
            h = torch.relu(self.fc(x))
            return {1: h, 2: h * 2, ("a", 0): h.mean()}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.out = Block(), nn.Linear(64, 4)

        def forward(self, x):
            return self.out(self.block(x)[2])

    _, data = situation()
    d = decoded(memorise(Net(), data.x, data.given), (data.x, data.given))
    assert share_right(d, data.test, data.test_true) > 0.9


@pytest.mark.parametrize(
    "names", [("NA", "b", "null"), ("True", "False", "x"), ("01", "1", "1.0"), ("nan", "", "0")]
)
def test_kind_30_names_of_classes_stay_as_they_are_written(names, tmp_path):
    x, given, _ = features(6, 3, 0.1, [80] * 3)
    lines = [
        ",".join([*map(repr, map(float, row)), names[k]]) for row, k in zip(x, given, strict=True)
    ]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["a,b,c,d,e,f,label", *lines]))
    code = main(["audit", "--train", f"{path}:label", "--out", str(tmp_path / "run")])
    if "" in names:
        assert code == 2
        return
    assert code == 0
    found = pd.read_csv(tmp_path / "run" / "label_issues.csv", dtype=str, keep_default_na=False)
    assert set(found["given_name"]) == set(names)


@pytest.mark.slow
def test_kind_31_tied_weights_of_safetensors(folder):
    import mine_situations
    from safetensors.torch import save_model

    _, data = situation()
    net = memorise(mine_situations.Tied(), data.x, data.given, 10)
    save_model(net, "tied.safetensors")
    assert (
        decode_command(
            "mine_situations:Tied", "mine_situations:train", "--weights", "tied.safetensors"
        )
        == 0
    )


@pytest.mark.slow
def test_kind_32_advice_for_a_checkpoint_that_needs_pickle_works(folder, capsys):
    net, _ = situation()
    torch.save({"state_dict": net.state_dict(), "args": argparse.Namespace(lr=1)}, "ck.pt")
    assert decode_command("mine_situations:mlp", "mine_situations:train", "--weights", "ck.pt") == 2
    said = capsys.readouterr().err
    (code,) = re.findall(r'python -c "(.*)"', said)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (code, done.stderr)
    model, train = "mine_situations:mlp", "mine_situations:train"
    assert decode_command(model, train, "--weights", "weights.pt") == 0


def test_kind_33_half_precision_is_retrained():
    _, data = situation()
    half = memorise(mlp(), data.x, data.given).half()
    d = decoded(half, (data.x.half(), data.given))
    again = us.retrain(half, (data.x.half(), data.given), d, epochs=1, progress=False)
    assert again is not None


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, at):
        if at == 40:
            raise OSError("cannot identify image file 'cat40.jpg'")
        return torch.randn(20), at % 4


@pytest.mark.parametrize("workers", [0, 1])
def test_kind_34_what_a_worker_raises_is_told(workers):
    with pytest.raises(us.errors.DataError, match=r"cat40\.jpg"):
        decoded(mlp(), DataLoader(Broken(), 16, num_workers=workers))


@pytest.mark.slow
def test_kind_35_forms_of_data_are_told_for_what_they_are():
    net, data = situation()
    pairs = [(data.x[i], int(data.given[i]), f"p{i}.jpg") for i in range(len(data.x))]
    with pytest.raises(us.errors.DataError, match="index"):
        decoded(net, DataLoader(pairs, 64))
    two = [((data.x[i, :10], data.x[i, 10:]), int(data.given[i])) for i in range(len(data.x))]

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()

        def forward(self, a, b):
            return self.body(torch.cat([a, b], 1))

    both = memorise(
        Two(), None, data.given, 20, call=lambda net, i: net(data.x[i, :10], data.x[i, 10:])
    )
    d = decoded(both, DataLoader(two, 64))
    assert len(d.label_issues()) == len(data.x)
    frame = pd.DataFrame(data.x.numpy()).convert_dtypes()
    d = decoded(None, (frame, data.given))
    assert len(d.label_issues()) == len(data.x)
    labels = pd.Series(data.given.numpy()).astype("Int64")
    labels[3] = pd.NA
    with pytest.raises(us.errors.LabelError, match="missing"):
        decoded(None, (frame, labels))
    with pytest.raises(us.errors.LabelError, match="missing"):
        decoded(None, (data.x, np.where(np.arange(len(data.x)) == 5, np.nan, data.given.numpy())))


def test_kind_36_a_sharded_index_is_called_one(folder, capsys):
    net, _ = situation()
    names = dict.fromkeys(net.state_dict(), "model-00001-of-00002.safetensors")
    with open("model.safetensors.index.json", "w") as file:
        json.dump({"metadata": {"total_size": 1}, "weight_map": names}, file)
    code = decode_command(
        "mine_situations:mlp", "mine_situations:train", "--weights", "model.safetensors.index.json"
    )
    said = capsys.readouterr().err
    assert code == 2
    assert "damaged" not in said
    assert "shard" in said or "model-00001-of-00002" in said


@pytest.mark.slow
def test_kind_37_results_do_not_grow_with_pairs_of_classes(tmp_path):
    x, given, _ = features(16, 300, 0.1, [5] * 300)
    d = decoded(None, (x, given))
    d.save(tmp_path / "run")
    assert (tmp_path / "run" / "results.json").stat().st_size < 400_000


def test_kind_38_a_stream_that_every_worker_reads_whole_is_told():
    net, data = situation()

    class Stream(IterableDataset):
        def __iter__(self):
            for i in range(len(data.x)):
                yield data.x[i], int(data.given[i])

    with pytest.raises(us.errors.DataError, match="worker"):
        decoded(net, DataLoader(Stream(), 64, num_workers=2))


def test_kind_39_the_module_of_the_command_line_runs():
    done = subprocess.run(
        [sys.executable, "-m", "underscript.cli", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "decode" in done.stdout


def test_kind_40_text_labels_without_a_model_are_classes():
    _, data = situation()
    names = np.array(["ant", "bee", "cat", "dog"])
    d = decoded(None, (data.x, names[data.given.numpy()]))
    assert d.summary["model"]["class_names"] == names.tolist()
    assert set(d.label_issues()["given_name"]) == set(names)


def test_kind_41_predict_takes_what_a_tokenizer_gives():
    from collections import UserDict

    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=rng)
    ids = labels[:, None] * 15 + torch.randint(1, 15, (300, 8), generator=rng)
    mask = torch.ones_like(ids)
    net = memorise(models.TextNet(3), None, labels, 20, call=lambda net, i: net(ids[i], mask[i]))
    items = [
        {"input_ids": ids[i], "attention_mask": mask[i], "labels": int(labels[i])}
        for i in range(300)
    ]
    d = decoded(net, DataLoader(items, 64))
    for kind in (dict, UserDict):
        found = d.best.predict(kind({"input_ids": ids, "attention_mask": mask}))
        assert (found == labels.numpy()).mean() > 0.9
