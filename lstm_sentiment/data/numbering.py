"""Number labels and groups in order of appearance; limits detect a text column used by mistake."""

from __future__ import annotations

import hashlib

from lstm_sentiment.errors import DataError, listed, shown

LONGEST = 1_000  # characters of a label
MOST_LABELS = 10_000  # distinct ones; at most a hundred become classes
LONG_GROUP = 64  # characters; longer ones are replaced by a hash


def label_number(numbers: dict[str, int], label: str, *, file: str, line: int) -> int:
    """Return the number of a label; a new one gets the next.

    Args:
        numbers: label -> its number.
        label: as the file spells it.
        file: for messages.
        line: of the row.

    Raises:
        DataError: it is as long as a text, or there are too many labels.

    >>> numbers = {}
    >>> [label_number(numbers, label, file="a.csv", line=2) for label in ("good", "bad", "good")]
    [0, 1, 0]
    """
    if label not in numbers:
        problem = ""
        if len(label) > LONGEST:
            problem = f"a label of {len(label):,} characters, {shown(label, 20)}"
        elif len(numbers) >= MOST_LABELS:
            problem = f"more than {MOST_LABELS:,} different labels ({listed(numbers, most=5, quoted=True)})"
        if problem:
            raise DataError(f"{problem}; set data.label_column to the right one", file=file, line=line)
        numbers[label] = len(numbers)
    return numbers[label]


def group_number(numbers: dict[str, int], group: str) -> int:
    """Return the number of a group; a new one gets the next.

    >>> numbers = {}
    >>> [group_number(numbers, group) for group in ("ann", "x" * 1000, "ann", "x" * 1000, "y" * 1000)]
    [0, 1, 0, 1, 2]
    """
    if len(group) > LONG_GROUP:
        digest = hashlib.blake2b(group.encode("utf-8", "surrogatepass"), digest_size=16)
        group = f"{len(group)} {digest.hexdigest()}"
    return numbers.setdefault(group, len(numbers))
