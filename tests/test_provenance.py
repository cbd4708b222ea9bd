"""Training texts are recognised, exactly and nearly; held-out rows are listed."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_csv
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_sentiment import compare, evaluate, load, predict
from lstm_sentiment.comparison.verdicts import about_of, compare_all
from lstm_sentiment.config.schema import Config
from lstm_sentiment.errors import CheckpointError
from lstm_sentiment.experiment.train import run
from lstm_sentiment.provenance.sketches import BITS, similar, sketches
from lstm_sentiment.provenance.trained_texts import FILE, TrainedTexts

WORDS = [f"w{i}" for i in range(400)]


def sketch(*texts: list[int]) -> np.ndarray:
    lengths_R = np.array([len(text) for text in texts])
    return sketches(np.array([i for text in texts for i in text]), lengths_R, WORDS)[0]


def pair(jaccard: float, size: int, random: np.random.Generator) -> tuple[list[int], list[int]]:
    """Return two sets of tokens with about this Jaccard index."""
    shared = round(2 * size * jaccard / (1 + jaccard))
    drawn = random.permutation(len(WORDS)).tolist()
    return drawn[:size], drawn[size - shared : 2 * size - shared]


@pytest.mark.parametrize(
    ("jaccard", "least", "most"), [(0.95, 0.99, 1), (0.85, 0.9, 1), (0.5, 0, 0.02), (0.1, 0, 0)]
)
def test_similar_texts_are_found_at_the_stated_rates(jaccard: float, least: float, most: float) -> None:
    random = np.random.default_rng(0)
    ones, others = zip(*(pair(jaccard, 60, random) for _ in range(200)), strict=True)
    found_P = similar(sketch(*ones), sketch(*others))
    assert found_P.shape == (200,)
    assert least <= np.mean(found_P) <= most


def test_the_estimate_is_the_jaccard_index_on_average() -> None:
    random = np.random.default_rng(1)
    for jaccard in (0.3, 0.6, 0.9):
        pairs = [pair(jaccard, 50, random) for _ in range(100)]
        truth_P = np.array([len({*one} & {*other}) / len({*one} | {*other}) for one, other in pairs])
        ones, others = zip(*pairs, strict=True)
        differing_P = np.unpackbits(sketch(*ones) ^ sketch(*others), axis=1).sum(axis=1)
        assert abs(np.mean(1 - 2 * differing_P / BITS - truth_P)) < 0.03


@given(st.lists(st.lists(st.integers(0, 399), max_size=12), min_size=1, max_size=9), st.randoms())
@settings(max_examples=40)
def test_a_sketch_depends_on_the_set_of_tokens_alone(texts: list[list[int]], random: object) -> None:
    together = sketch(*texts)
    for text, row in zip(texts, together, strict=True):
        shuffled = sorted({*text}, key=lambda i: (i * 7919) % 401) * 2
        assert (sketch(shuffled)[0] == row).all()


def test_short_texts_have_no_sketch() -> None:
    bits_RK, sketched_R = sketches(np.array([0, 1, 2, 3, 3, 0, 1, 2, 3, 4]), np.array([5, 0, 5]), WORDS)
    assert sketched_R.tolist() == [False, False, True]
    assert not bits_RK[:2].any()


def test_a_run_recognises_its_training_texts_and_lists_the_others(
    configure: Callable[..., Config], reviews: Path, tmp_path: Path
) -> None:
    run(configure("--trainer.epochs=1", "--data.validation=0.2", "--data.test=0.2"))
    with reviews.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    with (tmp_path / "run" / "held_out_rows.csv").open(encoding="utf-8", newline="") as file:
        held_out = list(csv.DictReader(file))
    lines = {int(row["line"]) for row in held_out}
    assert {row["split"] for row in held_out} == {"validation", "test"}
    assert {row["source"] for row in held_out} == {str(reviews)}
    assert all(rows[int(row["line"]) - 2][1] == row["label"] for row in held_out)

    classifier = load(tmp_path / "run")
    kept = TrainedTexts.read(tmp_path / "run")
    assert kept is not None
    texts = [text for text, _ in rows]
    seen = kept.seen(texts, classifier.tokenizer)
    trained = {text for line, text in enumerate(texts, start=2) if line not in lines}
    assert seen.exactly.tolist() == [text in trained for text in texts]
    longest = max(trained, key=len)
    changed = kept.seen([f" {longest}\n", f"{longest} !", "nothing like it at all"], classifier.tokenizer)
    assert (changed.exactly.tolist(), changed.nearly.tolist()) == ([True, False, False], [False, True, False])


@pytest.mark.parametrize("damage", ["truncated", "other tensors", "a link"])
def test_damaged_hashes_are_refused(damage: str, trained_run: Path, tmp_path: Path) -> None:
    file = tmp_path / FILE
    content = (trained_run / FILE).read_bytes()
    if damage == "a link":
        file.symlink_to(trained_run / FILE)
    elif damage == "truncated":
        file.write_bytes(content[:-9])
    else:
        file.write_bytes((trained_run / "best" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=FILE):
        TrainedTexts.read(tmp_path)


def test_a_run_of_an_earlier_version_has_no_hashes(tmp_path: Path) -> None:
    assert TrainedTexts.read(tmp_path) is None


def labelled(path: Path, rows: list[tuple[str, str]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


def test_evaluate_and_compare_name_training_texts_and_score_the_others(
    configure: Callable[..., Config], reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(configure("--trainer.epochs=1", "--data.validation=0.2", "--data.test=null"))
    with reviews.open(encoding="utf-8", newline="") as file:
        trained = [(text, label) for text, label in list(csv.reader(file))[1:]]
    with (tmp_path / "run" / "held_out_rows.csv").open(encoding="utf-8", newline="") as file:
        held_out = {int(row["line"]) for row in csv.DictReader(file)}
    mixed = labelled(tmp_path / "mixed.csv", trained)
    new = labelled(tmp_path / "new.csv", [trained[line - 2] for line in sorted(held_out)])

    evaluate.main([str(tmp_path / "run"), mixed, "--out", str(tmp_path / "mixed.json")])
    capsys.readouterr()
    evaluate.main([str(tmp_path / "run"), new, "--out", str(tmp_path / "new.json")])
    found, alone = (json.loads((tmp_path / name).read_text("utf-8")) for name in ("mixed.json", "new.json"))
    assert found["trained_on"]["exactly"] == len(trained) - len(held_out)
    others = alone.get("trained_on", {}).get(
        "others", alone
    )  # without near-duplicates, of which chance makes some
    assert found["trained_on"]["others"] == {name: others[name] for name in found["trained_on"]["others"]}
    assert 0 <= len(held_out) - others["rows"] == found["trained_on"]["nearly"] < 5
    capsys.readouterr()

    predict.main([str(tmp_path / "run"), "--file", mixed, "--out", str(tmp_path / "out.csv")])
    exactly = len(trained) - len(held_out)
    assert f"trained on {exactly} of {len(trained)} texts exactly and" in capsys.readouterr().err
    unlabelled = write_csv(tmp_path / "unlabelled.csv", [(text, "x") for text, _ in trained])
    unlabelled.write_text(unlabelled.read_text("utf-8").replace("text,label", "text,note", 1), "utf-8")
    predict.main([str(tmp_path / "run"), "--file", str(unlabelled), "--out", str(tmp_path / "out.csv")])
    assert "trained on" not in capsys.readouterr().err

    shutil.copytree(tmp_path / "run", tmp_path / "other")
    compare.main([str(tmp_path / "run"), str(tmp_path / "other"), mixed])
    shown = capsys.readouterr().out
    assert re.search(rf"macro-F1 by training.*\n.*new +{others['rows']}\b", shown)
    assert re.search(rf"trained on +{len(trained) - others['rows']}\b", shown)
    about = f"on the {others['rows']} rows that no system was trained on:"
    assert about in shown
    assert shown.count("this run was trained on") == 2, "once for each run, below the verdicts"
    for format_ in ("markdown", "latex", "html", "json"):
        compare.main([str(tmp_path / "run"), str(tmp_path / "other"), mixed, f"--format={format_}"])
        pasted = capsys.readouterr().out
        assert about.removesuffix(":") in pasted
        assert f"trained on {exactly} of {len(trained)} texts exactly" in pasted


def test_verdicts_are_about_rows_that_no_system_was_trained_on() -> None:
    """B knows its training rows; on the others A is better. The reference is a comparison of these alone."""
    random = np.random.default_rng(0)
    truth_R, seen_R = random.integers(0, 2, 600), np.arange(600) < 300
    first_R = np.where(random.random(600) < 0.2, 1 - truth_R, truth_R)
    second_R = np.where(~seen_R & (random.random(600) < 0.4), 1 - truth_R, truth_R)
    how: dict[str, Any] = {
        "file": "a.csv",
        "titles": ["a", "b"],
        "labels": ["no", "yes"],
        "metric": "macro_f1",
    }
    found = compare_all(truth_R=truth_R, predictions=[first_R, second_R], seen_R=seen_R, **how)
    alone = compare_all(truth_R=truth_R[~seen_R], predictions=[first_R[~seen_R], second_R[~seen_R]], **how)
    every = compare_all(truth_R=truth_R, predictions=[first_R, second_R], **how)
    assert found.pairs[0].verdicts == alone.pairs[0].verdicts
    assert found.pairs[0].verdicts != every.pairs[0].verdicts
    assert found.pairs[0].compared == every.pairs[0].compared, "the scores of all rows are shown, too"
    assert found.pairs[0].verdicts[1].ahead == "A"
    known = compare_all(truth_R=truth_R, predictions=[first_R, second_R], seen_R=np.ones(600, bool), **how)
    assert known.pairs[0].verdicts == every.pairs[0].verdicts
    assert "every row was trained on by some system" in about_of(known)
