"""A classifier on its way to another process: its settings and tensors, and it is made of them again there.

No file is read or written here, and nothing of this package unpickles a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lstm_sentiment.system.devices import device_here
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS
from lstm_sentiment.text.tokenizers import Vocabulary


def taken_apart(classifier: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a function, and the arguments with which it makes an equal classifier, as ``__reduce__`` has to.

    Args:
        classifier: a `SentimentClassifier`.

    Example::

        make, arguments = taken_apart(lstm_sentiment.load("runs/tweets"))
        make(*arguments).predict("so-so")
    """
    # NumPy's arrays go by value; tensors would go by shared memory, which ends with the process that sends.
    settings = {
        "labels": classifier.labels,
        "words": classifier.vocabulary.tokens[len(SPECIAL_TOKENS) :],
        "config": classifier.config,
        "weights": {name: of.cpu().numpy() for name, of in classifier.model.state_dict().items()},
        "calibration": classifier.calibration,
        "device": str(classifier.device),
    }
    own = {name: getattr(classifier, name) for name in ("label_map", "proof", "run")}
    return made_again, (type(classifier), settings, own)


def made_again(kind: Callable[..., Any], settings: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """Return a classifier made of what `taken_apart` gave, on the same device, or on auto without it.

    Args:
        kind: `SentimentClassifier`.
        settings: of its constructor, with plain types.
        own: attributes that are set afterwards.

    Example::

        make, arguments = taken_apart(lstm_sentiment.load("runs/tweets"))
        make(*arguments).predict("so-so")
    """
    words, weights = settings["words"], settings["weights"]
    tensors = {name: torch.from_numpy(np.array(values)) for name, values in weights.items()}
    others = {name: settings[name] for name in ("labels", "config", "calibration")}
    device = device_here(settings["device"])
    classifier = kind(vocabulary=Vocabulary(words), weights=tensors, device=device, **others)
    vars(classifier).update(own)
    return classifier
