"""scikit-learn's own checks on both decoders."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from underscript import (
    MinimumAngleSubspaceClassifier,
    PrincipalVectorClassifier,
    RidgeDiscriminant,
)


@pytest.mark.filterwarnings("ignore::underscript.UnderscriptWarning")
@parametrize_with_checks(
    [
        MinimumAngleSubspaceClassifier(),
        MinimumAngleSubspaceClassifier(variance=0.5),
        MinimumAngleSubspaceClassifier(rank=1),
        PrincipalVectorClassifier(),
        RidgeDiscriminant(),
        RidgeDiscriminant(n_features=50),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
