"""Pickle support of classifiers, for other processes: settings and tensors, and a constructor.

No files are read or written here, and this package never unpickles a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lstm_sentiment.models.network import unmerged
from lstm_sentiment.models.precision import precision_here, precision_of, set_precision
from lstm_sentiment.system.devices import device_here
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS
from lstm_sentiment.text.tokenizers import Vocabulary


def reduce_classifier(classifier: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the constructor and arguments of an equal classifier, for ``__reduce__``.

    Args:
        classifier: a `SentimentClassifier`.

    Example::

        make, arguments = reduce_classifier(lstm_sentiment.load("runs/tweets"))
        make(*arguments).predict("so-so")
    """
    # NumPy arrays are pickled by value; tensors would use shared memory, which ends with the sending process.
    settings = {
        "labels": classifier.labels,
        "words": classifier.vocabulary.tokens[len(SPECIAL_TOKENS) :],
        "config": classifier.config,
        "weights": {name: of.cpu().numpy() for name, of in unmerged(classifier.model).state_dict().items()},
        "merged": classifier.merged,
        "calibration": classifier.calibration,
        "device": str(classifier.device),
        "precision": precision_of(classifier.model),
    }
    own = {name: getattr(classifier, name) for name in ("label_map", "proof", "run", "linear", "branches")}
    return made_again, (type(classifier), settings, own)


def made_again(kind: Callable[..., Any], settings: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """Construct a classifier from the result of `reduce_classifier`, on the same device or else on auto.

    Its precision is the same, or else fp32.

    Args:
        kind: `SentimentClassifier`.
        settings: of its constructor, as plain types.
        own: attributes to set afterwards.

    Example::

        make, arguments = reduce_classifier(lstm_sentiment.load("runs/tweets"))
        make(*arguments).predict("so-so")
    """
    words, weights = settings["words"], settings["weights"]
    tensors = {name: torch.from_numpy(np.array(values)) for name, values in weights.items()}
    others = {name: settings[name] for name in ("labels", "config", "calibration", "merged")}
    device = device_here(settings["device"])
    classifier = kind(vocabulary=Vocabulary(words), weights=tensors, device=device, **others)
    vars(classifier).update(own)
    precision = precision_here(classifier.model, settings["precision"], classifier.device)
    set_precision(classifier.model, precision, classifier.device)
    return classifier
