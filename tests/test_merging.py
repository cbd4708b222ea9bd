"""Merging classes of a finished run: in every use the probabilities are sums of those of the run before."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import add_linear_model, make_rows, write_csv

from lstm_sentiment import compare, load, predict, relabel
from lstm_sentiment.adaptation.start import load_start
from lstm_sentiment.checkpoints.expected import of_classifier
from lstm_sentiment.checkpoints.manifest import MERGED
from lstm_sentiment.checkpoints.quantization import quantized
from lstm_sentiment.checkpoints.run_folder import BEST, LINEAR, PACKED, RELABELLED, RunFolder
from lstm_sentiment.checkpoints.trusted_runs import remember
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.deployment.exporter import export, load_runtime
from lstm_sentiment.diagnostics.diagnose import diagnose_run
from lstm_sentiment.diagnostics.invariance import check_invariance, invariance_findings
from lstm_sentiment.errors import CheckpointError, ConfigError, RunError, SentimentError
from lstm_sentiment.evaluation.calibration import Calibration
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.experiment.resume import check_folder
from lstm_sentiment.experiment.teachers import load_teachers
from lstm_sentiment.experiment.train import run as train
from lstm_sentiment.kernels.library import library
from lstm_sentiment.models.network import unmerged
from lstm_sentiment.monitoring.drift import profile_of_json
from lstm_sentiment.prediction.classifier import SentimentClassifier
from lstm_sentiment.prediction.score_file import predict_file
from lstm_sentiment.provenance.rows_of_run import rows_of_run
from lstm_sentiment.records.checkpoint_facts import BestFacts
from lstm_sentiment.records.data_facts import DataFacts
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.relabelling import scoring
from lstm_sentiment.relabelling.renaming import relabel as renamed
from lstm_sentiment.relabelling.scoring import _fitted_again
from lstm_sentiment.reporting.report import write_report
from lstm_sentiment.starter.packing import pack
from lstm_sentiment.text.tokenization import PAD

TEXTS = ["a great room", "awful", "it was okay", "", "the worst best usual place", "n3 zzz unknown words"]
MAP = {"neutral": "negative"}
NEW = ["negative", "positive"]


def sums(probabilities_RS: Any) -> Any:
    """Return the obvious reference: the probabilities of negative and neutral added."""
    return np.stack([probabilities_RS[:, 0] + probabilities_RS[:, 1], probabilities_RS[:, 2]], axis=1)


@pytest.fixture(scope="module")
def pair(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with a linear model next to it, and the same with negative and neutral merged; both read only."""
    folder = tmp_path_factory.mktemp("merged")
    before = Path(shutil.copytree(trained_run, folder / "before"))
    add_linear_model(before)
    remember(before)
    renamed(before, MAP, out=folder / "after")
    return before, folder / "after"


@pytest.fixture
def merged(pair: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the merged run."""
    return Path(shutil.copytree(pair[1], tmp_path / "run"))


@pytest.mark.parametrize("count", [1, 40])  # texts are read one by one, or as arrays
def test_probabilities_are_sums(pair: tuple[Path, Path], count: int) -> None:
    before, after = (load(run, device="cpu") for run in pair)
    texts = [text for text, _ in make_rows(count, seed=3)] + (TEXTS if count > 1 else [])
    expected_RC = sums(before.predict_proba(texts))
    assert after.labels == NEW
    np.testing.assert_allclose(after.predict_proba(texts), expected_RC, rtol=1e-9)
    for prediction, row_C in zip(after.predict(texts), expected_RC, strict=True):
        assert prediction.label == NEW[int(row_C.argmax())]
        np.testing.assert_allclose(list(prediction.probabilities.values()), row_C, rtol=1e-9)
    logits_RC = after.predict_logits(texts)
    assert logits_RC.shape == (len(texts), 2)
    np.testing.assert_array_equal(logits_RC[:, 1], before.predict_logits(texts)[:, 2])


@pytest.mark.skipif(library() is None, reason="the kernels are not compiled for this CPU")
def test_a_prediction_is_the_same_bits_in_any_batch(pair: tuple[Path, Path]) -> None:
    after = load(pair[1], device="cpu")
    texts = [text for text, _ in make_rows(70, seed=3)] + TEXTS
    alone_RC = np.concatenate([after.predict_proba([text]) for text in texts])
    for size in (2, 7, 16, len(texts)):
        parts = [after.predict_proba(texts[start : start + size]) for start in range(0, len(texts), size)]
        assert np.array_equal(np.concatenate(parts), alone_RC), size


@pytest.mark.parametrize("branch", [None, LINEAR])
def test_streams_predict_the_sums(merged: Path, tmp_path: Path, branch: str | None) -> None:
    """Of a network that reads forward only, as an export does too."""
    classifier = load(merged, device="cpu")
    torch.manual_seed(0)
    forward = dataclasses.replace(classifier.config.model, bidirectional=False)
    config = dataclasses.replace(classifier.config, model=forward)
    settings: dict[str, Any] = {"vocabulary": classifier.vocabulary, "config": config, "device": "cpu"}
    settings["calibration"] = Calibration(temperature=0.7)
    before = SentimentClassifier(labels=["negative", "neutral", "positive"], **settings)
    weights = unmerged(before.model).state_dict()
    after = SentimentClassifier(labels=NEW, merged=[0, 0, 1], weights=weights, **settings)
    after.run = before.run = merged
    if branch is not None:
        for of in (before, after):
            of.keep_branch(branch)
            unmerged(of.model).get_buffer("shares").copy_(torch.tensor([0.7, 1.3]))
            unmerged(of.model).get_buffer("ngrams.idf")[PAD] = 0.0  # as fitting leaves it
    text = "the awful room was great and okay"
    stream = after.stream()
    found = [stream.add(piece).probabilities for piece in (text[:9], text[9:])]
    expected_RC = sums(before.predict_proba([text[:9], text]))
    np.testing.assert_allclose([list(of.values()) for of in found], expected_RC, rtol=1e-5)
    pytest.importorskip("onnxruntime")
    export(after, merged, tmp_path / "onnx", stream=True)
    exported = load_runtime(tmp_path / "onnx", threads=1).stream()
    found = [exported.add(piece).probabilities for piece in (text[:9], text[9:])]
    np.testing.assert_allclose([list(of.values()) for of in found], expected_RC, rtol=1e-4)


def test_the_most_probable_class_need_not_be_that_of_the_most_probable_member(
    pair: tuple[Path, Path],
) -> None:
    """Otherwise the scores could be read from the confusion matrix before."""
    before, after = (load(run, device="cpu") for run in pair)
    for classifier in (before, after):
        head = next(module for module in classifier.model.modules() if hasattr(module, "head")).head
        head.weight.zero_()
        head.bias.copy_(torch.tensor([1.0, 1.0, 1.2]))
    assert before.predict("so")[0].label == "positive"
    assert after.predict("so")[0].label == "negative"


def test_label_sets_hold_every_class_with_a_member_in_the_set_before(pair: tuple[Path, Path]) -> None:
    """So that they hold the true class at least as often; the thresholds are the same."""
    before, after = (load(run, device="cpu") for run in pair)
    assert before.calibration == after.calibration
    texts = [text for text, _ in make_rows(200, seed=5)] + TEXTS
    for coverage in (0.5, 0.8, 0.95, 0.999):
        pairs = zip(
            before.predict(texts, coverage=coverage), after.predict(texts, coverage=coverage), strict=True
        )
        for one, other in pairs:
            assert {MAP.get(label, label) for label in one.label_set or []} <= {*(other.label_set or [])}


@pytest.mark.parametrize("branch", [LINEAR, "lstm"])
def test_branches_are_summed_too(merged: Path, pair: tuple[Path, Path], branch: str) -> None:
    """With the temperature of the branch, not of the model."""
    found = []
    for run in (pair[0], merged):
        classifier = load(run, device="cpu")
        if branch == "lstm" and not hasattr(classifier.model, "shares"):
            classifier.keep_branch(LINEAR)  # a network of two branches, for this test
            classifier.run = run
        classifier.keep_branch(branch)
        found.append(classifier.predict_proba(TEXTS))
    np.testing.assert_allclose(found[1], sums(found[0]), rtol=1e-6)


def test_the_linear_model_is_merged_at_its_own_temperature(merged: Path, pair: tuple[Path, Path]) -> None:
    found = []
    for run in (pair[0], merged):
        folder = (
            RunFolder(run) if run == merged else RunFolder(shutil.copytree(run, merged.parent / "before"))
        )
        linear = folder.load(LINEAR)
        facts = {**linear.facts, "linear": {**linear.facts["linear"], "temperature": 3.0}}
        folder.save(LINEAR, linear.tensors, facts)
        classifier = load(folder.path, device="cpu")
        classifier.keep_branch(LINEAR)
        assert classifier.calibration.temperature == 3.0
        found.append(classifier.predict_proba(TEXTS))
    np.testing.assert_allclose(found[1], sums(found[0]), rtol=1e-9)


@pytest.mark.parametrize("int8", [False, True])
def test_an_export_gives_the_sums(merged: Path, pair: tuple[Path, Path], tmp_path: Path, int8: bool) -> None:
    pytest.importorskip("onnxruntime")
    found = []
    for run, out in ((pair[0], tmp_path / "before"), (merged, tmp_path / "after")):
        export(load(run, device="cpu"), run, out, int8=int8)
        found.append(load_runtime(out, threads=1).predict_proba(TEXTS))
    np.testing.assert_allclose(found[1], sums(found[0]), atol=1e-6)
    assert load_runtime(tmp_path / "after").labels == NEW


def test_a_copy_in_another_process_gives_the_sums(pair: tuple[Path, Path]) -> None:
    after = load(pair[1], device="cpu")
    expected_RC = after.predict_proba(TEXTS)
    for other in (pickle.loads(pickle.dumps(after)), copy.deepcopy(after), copy.copy(after)):
        np.testing.assert_array_equal(other.predict_proba(TEXTS), expected_RC)


def test_a_quantized_run_is_merged(pair: tuple[Path, Path], tmp_path: Path) -> None:
    before = RunFolder(shutil.copytree(pair[0], tmp_path / "quantized"))
    best = before.load(BEST)
    tensors, kinds = quantized(best.tensors["model"])
    before.save(BEST, {"model": tensors}, {**best.facts, PACKED: kinds})
    renamed(before.path, MAP, out=tmp_path / "after")
    found = [load(run, device="cpu").predict_proba(TEXTS) for run in (before.path, tmp_path / "after")]
    np.testing.assert_allclose(found[1], sums(found[0]), rtol=1e-9)
    assert PACKED in json.loads((tmp_path / "after" / BEST / "state.json").read_text())


def test_a_merged_run_can_be_packed(merged: Path, tmp_path: Path) -> None:
    facts = pack(merged, tmp_path / "packed", texts=TEXTS)
    assert facts["largest_difference"] < 0.5
    packed = load(tmp_path / "packed", device="cpu")
    assert packed.labels == NEW
    np.testing.assert_allclose(packed.predict_proba(TEXTS), load(merged).predict_proba(TEXTS), atol=0.05)


def test_the_self_test_is_that_of_the_merged_classes(merged: Path, caplog: pytest.LogCaptureFixture) -> None:
    classifier = load(merged, device="cpu")
    assert not caplog.records
    stored_RC = np.array(classifier.proof["logits"])
    np.testing.assert_allclose(classifier.predict_logits(classifier.proof["texts"]), stored_RC, atol=1e-4)
    assert invariance_findings(check_invariance(classifier)) == []


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
@pytest.mark.parametrize("branch", [None, LINEAR])
def test_explanations_are_of_the_merged_classes(
    merged: Path, pair: tuple[Path, Path], method: str, branch: str | None
) -> None:
    if method == "integrated_gradients":
        pytest.importorskip("captum")
    before, after = load(pair[0], device="cpu"), load(merged, device="cpu")
    for classifier in (before, after):
        if branch is not None:
            classifier.keep_branch(branch)
            model = getattr(classifier.model, "network", classifier.model)
            model.shares.copy_(torch.tensor([0.7, 1.3]))  # both branches
    text = "the awful room was great and okay"
    found = after.explain(text, method=method)
    expected_C = sums(before.explain(text, method="occlusion").probabilities[None])[0]
    np.testing.assert_allclose(found.probabilities, expected_C, rtol=1e-5)
    assert found.labels == NEW
    assert found.attributions.shape == (7, 2)
    np.testing.assert_allclose(found.attributions.sum(axis=1), 0, atol=1e-9)
    np.testing.assert_allclose(
        np.exp(found.scores) / np.exp(found.scores).sum(), found.probabilities, rtol=1e-6
    )
    if method == "integrated_gradients":
        assert np.abs(found.gap).max() < 0.02 * np.abs(found.scores - found.baseline).max()
        assert np.abs(found.attributions).max() > 0.1


def test_scores_are_those_of_the_merged_predictions(merged: Path, pair: tuple[Path, Path]) -> None:
    """Computed from the run's rows; the reference predicts them with the run before."""
    before, after = load(pair[0], device="cpu"), load(merged, device="cpu")
    metrics = RunFolder(merged).read(RunMetrics)
    old = RunFolder(pair[0]).read(RunMetrics)
    rows = corpus_of(before, pair[0])
    for name, split in (("validation", rows.validation), ("test", rows.test)):
        texts = [" ".join(split.store.tokens[i] for i in split.token_ids(row)) for row in range(len(split))]
        merged_R = np.array([0, 0, 1])[split.labels]
        expected = score(merged_R, sums(before.predict_proba(texts)), NEW)
        found = metrics.test if name == "test" else metrics.validation
        assert found is not None
        assert found.confusion == expected.confusion
        assert found.accuracy == expected.accuracy
        assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert metrics.labels == NEW
    assert metrics.calibration.temperature == old.calibration.temperature
    assert metrics.calibration.validation.label_sets["0.9"].coverage >= 0.9
    assert (metrics.epochs, metrics.training_s, metrics.metric) == (old.epochs, old.training_s, old.metric)
    counts = RunFolder(merged).read(DataFacts).splits["train"].classes
    old_counts = RunFolder(pair[0]).read(DataFacts).splits["train"].classes
    assert counts == {
        "negative": old_counts["negative"] + old_counts["neutral"],
        "positive": old_counts["positive"],
    }
    profile = profile_of_json(RunFolder(merged).read_json("monitoring.json"), NEW)
    assert list(profile.predicted.values()) == np.sum(metrics.validation.confusion, axis=0).tolist()
    assert after.merged == [0, 0, 1]


@pytest.fixture(scope="module")
def frozen_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run from the starter with few rows, cross-validated, with a class bias and baselines; and merged."""
    folder = tmp_path_factory.mktemp("frozen")
    data = write_csv(folder / "data.csv", make_rows(120)[10:])
    argv = [f"--data.train={data}", f"--out={folder / 'before'}", "--trainer.threads=1", "--data.test=0.2"]
    train(parse_config(argv, program="test", description=""))
    torch.set_flush_denormal(False)
    renamed(folder / "before", MAP, out=folder / "after")
    return folder / "before", folder / "after"


def test_cross_validated_rows_are_scored_again_by_the_same_fits(frozen_pair: tuple[Path, Path]) -> None:
    """Control arm: the same code gives the metrics that training wrote, before merging."""
    before, after = (RunFolder(run).read(RunMetrics) for run in frozen_pair)
    classifiers = [load(run, device="cpu") for run in frozen_pair]
    corpus = corpus_of(classifiers[0], frozen_pair[0])
    fitted = _fitted_again(classifiers[0], corpus, started_from=start_of(frozen_pair[0]))
    assert fitted is not None
    logits_RS, held_R, _ = fitted
    probabilities_RS = classifiers[0].calibration.probabilities(logits_RS)
    truth_R = corpus.train.labels[held_R]
    assert score(truth_R, probabilities_RS, classifiers[0].labels).confusion == before.validation.confusion
    expected = score(np.array([0, 0, 1])[truth_R], sums(probabilities_RS), NEW)
    assert after.validation.confusion == expected.confusion
    assert after.validation.loss == pytest.approx(expected.loss, rel=1e-6)
    assert after.branches is None
    assert after.kept is not None
    assert after.kept.scores is None
    profile = profile_of_json(RunFolder(frozen_pair[1]).read_json("monitoring.json"), NEW)
    assert profile.rows == len(held_R)


def test_a_run_from_an_older_starter_is_merged_without_scores(
    frozen_pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The starter of another version may have other sizes, too."""
    other = dataclasses.replace(load_start("starter"), sha256="0" * 64, weights={})  # type: ignore[type-var]
    monkeypatch.setattr(scoring, "load_start", lambda _: other)
    renamed(frozen_pair[0], MAP, out=tmp_path / "after", rows=True)
    assert "starter, which training started from, has other weights now" in caplog.text
    assert load(tmp_path / "after", device="cpu").labels == NEW


def test_baselines_are_scored_again(frozen_pair: tuple[Path, Path]) -> None:
    before, after = (RunFolder(run).read(RunMetrics) for run in frozen_pair)
    classifier = load(frozen_pair[0], device="cpu")
    classifier.keep_branch(LINEAR)
    test = corpus_of(classifier, frozen_pair[0]).test
    texts = [" ".join(test.store.tokens[i] for i in test.token_ids(row)) for row in range(len(test))]
    expected = score(np.array([0, 0, 1])[test.labels], sums(classifier.predict_proba(texts)), NEW)
    found = after.baselines["tfidf_logistic_regression"]
    assert found.confusion == expected.confusion
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert found.training_rows == before.baselines["tfidf_logistic_regression"].training_rows
    assert np.sum(after.baselines["majority"].confusion, axis=0).tolist() == [len(test), 0]
    assert (after.against_linear is None) == (before.against_linear is None)


def test_other_cross_validated_runs_have_no_scores(frozen_pair: tuple[Path, Path]) -> None:
    """Where another fit gives other weights, or training took steps."""
    classifier = load(frozen_pair[0], device="cpu")
    corpus, start = corpus_of(classifier, frozen_pair[0]), start_of(frozen_pair[0])
    classifier.config = dataclasses.replace(classifier.config, adapt="finetune")
    assert _fitted_again(classifier, corpus, started_from=start) is None
    classifier = load(frozen_pair[0], device="cpu")
    classifier.model.get_parameter("lstm.head.bias").add_(0.01)
    assert _fitted_again(classifier, corpus, started_from=start) is None


def start_of(run: Path) -> str:
    """Return the sha256 of the weights that a run started from."""
    digest: str = RunFolder(run).load(BEST).facts["pretrained"]
    return digest


def corpus_of(classifier: SentimentClassifier, run: Path) -> Any:
    facts = RunFolder(run).load(BEST).facts_as(BestFacts)
    return rows_of_run(
        classifier.config,
        facts,
        labels=classifier.labels,
        label_map=classifier.label_map,
        vocabulary=classifier.vocabulary,
        cache=cache_folder(),
    )


def test_the_rows_are_split_by_the_classes_that_the_run_began_with(
    merged: Path, pair: tuple[Path, Path]
) -> None:
    """Splitting by the merged classes would give other held-out rows."""
    before, after = (corpus_of(load(run, device="cpu"), run) for run in (pair[0], merged))
    facts = RunFolder(merged).load(BEST).facts_as(BestFacts)
    assert after.is_of(facts)
    assert after.labels == NEW
    for name, rows in before.splits.items():
        assert isinstance(rows, TextDataset)
        np.testing.assert_array_equal(after.splits[name].rows, rows.rows)
        np.testing.assert_array_equal(after.splits[name].labels, np.array([0, 0, 1])[rows.labels])
        np.testing.assert_array_equal(after.splits[name].weights, rows.weights)


def test_a_merged_run_is_evaluated_reported_and_published(
    merged: Path, pair: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("jinja2")
    remember(merged)
    classifier = load(merged, device="cpu")
    rows = make_rows(30, seed=7)
    files = [
        write_csv(tmp_path / "old.csv", rows),
        write_csv(tmp_path / "new.csv", [(text, MAP.get(label, label)) for text, label in rows]),
    ]
    expected_RC = sums(predict_file(load(pair[0], device="cpu"), str(files[0]))[1])
    for file in files:  # with the old labels, and with the new
        truth_R, found_RC = predict_file(classifier, str(file))
        assert truth_R.tolist() == [int(label == "positive") for _, label in rows]
        np.testing.assert_allclose(found_RC, expected_RC, rtol=1e-9)
    page = write_report(merged, device="cpu").read_text("utf-8")
    assert not caplog.records, "the rows are those that it was trained on"
    assert "Classes were merged after training: negative (negative, neutral)." in page
    classifier.save_pretrained(tmp_path / "published")
    card = (tmp_path / "published" / "README.md").read_text("utf-8")
    assert "Classes were merged after training: negative (negative, neutral)." in card
    published = load(tmp_path / "published", device="cpu")
    np.testing.assert_array_equal(published.predict_proba(TEXTS), classifier.predict_proba(TEXTS))


def test_a_merged_run_is_compared(
    merged: Path, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its own predictions in a file, on labels of before: the reference are sums of probabilities."""
    rows = make_rows(60, seed=9)
    names = {"negative": "negative", "neutral": "negative", "positive": "positive"}
    data = write_csv(tmp_path / "new.csv", [(text, names[label]) for text, label in rows])
    predict.main([str(merged), f"--file={data}", f"--out={tmp_path / 'own.csv'}", "--device=cpu"])
    capsys.readouterr()
    compare.main([str(merged), str(tmp_path / "own.csv"), str(data), "--format=json", "--device=cpu"])
    found = json.loads(capsys.readouterr().out)
    expected_R = sums(load(pair[0], device="cpu").predict_proba([text for text, _ in rows])).argmax(axis=1)
    accuracy = np.mean([NEW[i] == names[label] for i, (_, label) in zip(expected_R, rows, strict=True)])
    of_both = found["scores"]["accuracy"]
    assert of_both["first"] == of_both["second"] == pytest.approx(accuracy)
    with pytest.raises(SentimentError, match="classes"):
        compare.main([str(merged), str(pair[0]), str(data), "--device=cpu"])


def test_a_merged_run_is_diagnosed(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its findings are about the merged classes, and about the rows that the run had before."""
    monkeypatch.setattr("lstm_sentiment.diagnostics.diagnose._probe", lambda _: {})
    diagnosis = diagnose_run(merged, rows=True)
    metrics = RunFolder(merged).read(RunMetrics)
    confusion_CC = np.array(metrics.validation.confusion)
    probes = diagnosis.facts["probes"]
    assert probes["predicted"] == dict(zip(NEW, confusion_CC.sum(axis=0).tolist(), strict=True))
    assert probes["validation"] == dict(zip(NEW, confusion_CC.sum(axis=1).tolist(), strict=True))
    assert all(list(of["classes"]) == NEW for of in diagnosis.facts["data"]["splits"].values())
    assert not [of.what for of in diagnosis.findings if "not those the run was trained on" in of.what]
    assert diagnosis.sound


def test_without_its_rows_a_merged_run_has_no_scores(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rather than those of the old classes."""
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    folder = RunFolder(run)
    best, config = folder.load(BEST), (run / "config.yaml").read_text("utf-8")
    (run / "config.yaml").write_text(config.replace("seed: 0", "seed: 1"))  # other rows are held out
    folder.save(BEST, best.tensors, best.facts)
    (run / "report.html").write_text("old")
    (run / "onnx").mkdir()
    relabel.main([str(run), "{neutral: negative}", "--rows"])
    out = capsys.readouterr().out
    assert f"{run}: classes negative, positive\n" in out
    left_out = "report.html, onnx, metrics.json, monitoring.json"
    assert (
        f"left out, since they are of the old classes: {left_out}; write them again: report, export\n" in out
    )
    for name in ("metrics.json", "monitoring.json", "report.html", "onnx"):
        assert not (run / name).exists()
    assert RunFolder(run).read(DataFacts).conflicting_labels is None
    note = RunFolder(run).read_json(RELABELLED)[-1]
    assert note["scores"] == "left out: the rows, labels or vocabulary are no longer those of the run"
    expected_RC = sums(load(trained_run, device="cpu").predict_proba(TEXTS))
    np.testing.assert_allclose(load(run, device="cpu").predict_proba(TEXTS), expected_RC, rtol=1e-9)
    for refused in (lambda: write_report(run), lambda: load(run).save_pretrained(tmp_path / "published")):
        with pytest.raises(RunError, match=r"has no scores: its classes were merged, .*relabelled\.json"):
            refused()
    renamed(run, {"negative": "bad"})
    assert load(run).labels == ["bad", "positive"]


def test_classes_are_merged_again_and_renamed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """In any order, in one step or in several."""
    run = Path(shutil.copytree(pair[0], tmp_path / "run"))
    renamed(run, {"neutral": "mixed", "negative": "bad"})
    renamed(run, {"mixed": "rest", "positive": "rest"})
    renamed(run, {"bad": "low", "rest": "high"})
    before_RS = load(pair[0], device="cpu").predict_proba(TEXTS)
    expected_RC = np.stack([before_RS[:, 0], before_RS[:, 1] + before_RS[:, 2]], axis=1)
    found = load(run, device="cpu")
    assert found.labels == ["low", "high"]
    np.testing.assert_allclose(found.predict_proba(TEXTS), expected_RC, rtol=1e-9)
    assert found.label_map == {"negative": "low", "neutral": "high", "positive": "high"}
    facts = RunFolder(run).load(BEST).facts_as(BestFacts)
    assert facts.labels == ["negative", "neutral", "positive"]
    assert facts.label_map == {name: name for name in facts.labels}
    notes = RunFolder(run).read_json(RELABELLED)
    assert [of.get("merged") for of in notes] == [None, {"rest": ["mixed", "positive"]}, None]
    assert notes[1]["before"] == ["bad", "mixed", "positive"]
    assert corpus_of(found, run).is_of(facts)
    with pytest.raises(ConfigError, match="'low', 'high' would all be 'low'; leave at least two classes"):
        renamed(run, {"high": "low"})


def test_two_steps_of_merging_are_one(trained_run: Path, tmp_path: Path) -> None:
    """Of four classes: a network with a wider head, since the shared run has three."""
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    widen(run)
    steps, once = tmp_path / "steps", tmp_path / "once"
    renamed(run, {"mixed": "neutral"}, out=steps)
    renamed(steps, {"neutral": "negative"})
    renamed(run, {"mixed": "negative", "neutral": "negative"}, out=once)
    before_RS = load(run, device="cpu").predict_proba(TEXTS)
    expected_RC = np.stack([before_RS[:, :2].sum(axis=1) + before_RS[:, 3], before_RS[:, 2]], axis=1)
    for found in (steps, once):
        classifier = load(found, device="cpu")
        assert classifier.merged == [0, 0, 1, 0]
        np.testing.assert_allclose(classifier.predict_proba(TEXTS), expected_RC, rtol=1e-9)


def widen(run: Path) -> None:
    """Give a run a fourth class, mixed."""
    folder = RunFolder(run)
    best, labels = folder.load(BEST), folder.read_json("labels.json")
    weights = dict(best.tensors["model"])
    for name in ("head.weight", "head.bias"):
        weights[name] = torch.cat([weights[name], weights[name].mean(dim=0, keepdim=True) + 0.3])
    labels = {"labels": [*labels["labels"], "mixed"], "map": {**labels["map"], "mixed": "mixed"}}
    (run / "labels.json").write_text(json.dumps(labels) + "\n")
    proof = {"texts": ["so"], "logits": [[0.0, 0.0, 0.0, 0.0]]}
    folder.save(BEST, {"model": weights}, {**best.facts, "proof": proof})
    classifier = load(run, device="cpu")
    proof = {"texts": ["so"], "logits": classifier.predict_logits("so").tolist()}
    folder.save(BEST, {"model": weights}, {**best.facts, "proof": proof})


def test_training_starts_from_a_merged_run(merged: Path, pair: tuple[Path, Path]) -> None:
    """Its own logits are those of the sums; the head begins with the mean of the members."""
    before, after = load_start(str(pair[0])), load_start(str(merged))
    assert before is not None
    assert after is not None
    assert after.labels == NEW
    width = after.weights["head.weight"].shape[1]
    features_RP = np.random.default_rng(0).normal(size=(5, width))
    rows = corpus_of(load(merged, device="cpu"), merged).train.part(np.arange(5))
    logits_RC = after.logits(features_RP, rows, ["positive", "negative"])
    before_RS = before.logits(features_RP, rows, before.labels)
    assert logits_RC is not None
    assert before_RS is not None
    expected_RC = sums(np.exp(before_RS) / np.exp(before_RS).sum(axis=1, keepdims=True))[:, ::-1]
    found_RC = np.exp(logits_RC) / np.exp(logits_RC).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found_RC, expected_RC, rtol=1e-6)
    matching = after.matching_of_head(["positive", "negative"])
    assert matching is not None
    assert matching.tolist() == [[0, 0, 1], [0.5, 0.5, 0]]


def test_a_merged_run_cannot_be_resumed(merged: Path) -> None:
    config = Config(out=str(merged), resume=True)
    with pytest.raises(
        RunError, match=r"renamed or merged .* cannot be resumed; train its new classes: --config"
    ):
        check_folder(RunFolder(merged), config)


# -- format ----------------------------------------------------------------------------------------


def test_only_merged_runs_have_the_new_format(merged: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    """So that earlier versions refuse these, and read all others."""
    formats = [json.loads((run / BEST / "manifest.json").read_text())["format"] for run in (*pair, merged)]
    assert formats == [1, 2, 2]
    renamed(merged, {"negative": "bad"})
    load(merged).save_pretrained(tmp_path / "published")
    for run in (merged, tmp_path / "published"):
        assert json.loads((run / BEST / "manifest.json").read_text())["format"] == 2
    assert MERGED not in json.loads((pair[0] / BEST / "state.json").read_text())


@pytest.mark.parametrize(
    "damage",
    [
        [0, 0, 2],
        [0, 0],
        [1, 1, 1],
        [0, True, 1],
        "001",
        {},
        [0, 0, 1] * 40,
        [0, 0.0, 1],
        [-1, 0, 1],
    ],
)
def test_a_damaged_map_is_refused(merged: Path, damage: Any) -> None:
    folder = RunFolder(merged)
    best = folder.load(BEST)
    folder.save(BEST, best.tensors, {**best.facts, MERGED: damage})
    with pytest.raises(CheckpointError, match=r"do not fit|must be the class in labels\.json"):
        load(merged)
    with pytest.raises(CheckpointError):
        folder.load(BEST, of_classifier(merged))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("best/state.json", lambda of: {**of, "proof": {"texts": ["so"], "logits": [[1.0]]}}),
        ("best/state.json", lambda of: {**of, "proof": None}),
        ("best/state.json", lambda of: {**of, "calibration": None}),
    ],
)
def test_an_unfinished_or_damaged_run_is_not_merged(
    trained_run: Path, tmp_path: Path, file: str, change: Callable[[Any], Any]
) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    folder = RunFolder(run)
    best = folder.load(BEST)
    folder.save(BEST, best.tensors, change(best.facts))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="is not that of a finished run"):
        renamed(run, MAP)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_teacher_of_the_same_file_with_other_splits_is_refused(merged: Path) -> None:
    config = load(merged, device="cpu").config
    data = dataclasses.replace(config.data, unlabelled="more.txt")
    config = dataclasses.replace(config, teacher=str(merged), data=data)
    with pytest.raises(ConfigError, match=r"split by the classes that it had before some were merged"):
        load_teachers(config, device="cpu")
