"""What was chosen for one network, fitted to another's rows: beside plain float64 fits of them."""

from types import SimpleNamespace

import numpy as np
import torch
from plain_fits import discriminants, kept, rows

from underscript.probes.ensemble import COMBINED, rows_for
from underscript.selection.budget import Shares
from underscript.selection.candidates import Settings
from underscript.selection.chosen_decoder import auto_key
from underscript.selection.fitting import Candidate
from underscript.selection.refit import refitted
from underscript.utils.distributed import ALONE
from underscript.utils.progress import Progress

N_CLASSES = 5


def task():
    return SimpleNamespace(
        n_classes=N_CLASSES,
        processes=ALONE,
        device=torch.device("cpu"),
        seed=0,
        room=Shares(),
        places=[],
        progress=Progress(),
    )


def test_the_same_ensemble_is_fitted_once_to_all_rows_as_they_are():
    some = rows(moved=0)
    # The perturbed rows, the features and the layer that it has not are nothing to it.
    members = [
        Candidate("fc", 0, True, 0.1, 1),
        Candidate("fc", 0, True, 0.1, 1),
        Candidate("fc", 0, False, 1.0, 0),
        Candidate("input", 0, False, 0.1, 0),
    ]
    made = refitted(kept(some), task(), {"fc": members}, Settings())
    assert list(made) == [auto_key("fc")]
    view = some.views[0].astype(np.float64)
    total = np.zeros((len(view), N_CLASSES))
    for each in members[:3]:
        weights, biases = discriminants([view], some.given, N_CLASSES, each.ridge, 2)[each.round]
        scores = view @ weights + biases
        scores -= scores.mean(1, keepdims=True)
        total += scores / scores.std()
    ours = made[auto_key("fc")].decide(rows_for("fc", {"fc": torch.from_numpy(some.views[0])}))
    ours = (ours - ours.mean(1, keepdim=True)).double().numpy()
    np.testing.assert_allclose(ours, total, rtol=1e-3, atol=1e-3 * np.abs(total).max())


def test_random_features_are_as_many_as_its_samples_allow_and_one_layer_is_not_two():
    some = rows(n=300, moved=0)
    members = [Candidate("fc", 2048, True, 0.03, 0), Candidate("input", 2048, True, 0.03, 0)]
    made = refitted(kept(some), task(), {"fc": members[:1], COMBINED: members}, Settings())
    assert list(made) == [auto_key("fc")]
    assert made[auto_key("fc")].members[0].estimator.n_features == 151
