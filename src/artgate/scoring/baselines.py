"""What a head has to beat: logistic regression on the same features, and knowing nothing but the generator."""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

# Inverse strength of the L2 penalty: thousands of standardised features on few artworks want a strong one.
LOGISTIC_C = 3e-4
LOGISTIC_ITERATIONS = 300


def logistic_regression(features: np.ndarray, targets: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Learn from (N, D) features and their (N, K) targets' likeliest grades; (M, D) asked -> (M, K) probabilities."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=LOGISTIC_C, class_weight="balanced", max_iter=LOGISTIC_ITERATIONS)
    )
    model.fit(features, targets.argmax(1))
    probabilities = np.zeros((len(asked), targets.shape[1]))
    probabilities[:, model.classes_] = model.predict_proba(asked)
    return probabilities


def generator_majority(
    generators: Sequence[str | None], targets: np.ndarray, asked: Sequence[str | None]
) -> np.ndarray:
    """Shares of the grades among each generator's N artworks: -> (M, K) for those asked.

    A generator that was never seen gets the shares of all.
    """
    everyone = targets.mean(0)
    shares = {
        name: targets[[generator == name for generator in generators]].mean(0)
        for name in {generator for generator in generators if generator}
    }
    return np.array([shares.get(name, everyone) if name else everyone for name in asked])
