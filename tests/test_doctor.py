"""The doctor: findings for injected problems, and none for healthy data."""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lstm_sentiment import doctor
from lstm_sentiment.checkpoints.run_folder import BEST, LAST, RunFolder
from lstm_sentiment.config.command_line import given_keys, parse_config, read_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.data.token_store import TokenStore, cache_folder
from lstm_sentiment.diagnostics.causes import most_likely_cause, probe_findings
from lstm_sentiment.diagnostics.data_checks import class_shift, data_lines, examine_data
from lstm_sentiment.diagnostics.diagnose import diagnose, diagnose_run
from lstm_sentiment.diagnostics.findings import ERROR, NOTE, WARNING, Finding
from lstm_sentiment.diagnostics.invariance import check_invariance, invariance_findings
from lstm_sentiment.diagnostics.sanity_checks import Probes
from lstm_sentiment.diagnostics.unused_settings import unused_settings
from lstm_sentiment.errors import ConfigError, DataError, RunError
from lstm_sentiment.experiment.train import initial_model, run
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.models.network import lstm_of
from lstm_sentiment.models.pooling import Pooling, States
from lstm_sentiment.prediction.classifier import load
from lstm_sentiment.provenance.near_duplicates import near_duplicates
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.system.devices import lstm_takes_bf16
from lstm_sentiment.system.files import write_json
from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer, Vocabulary
from tests.conftest import FILLERS, make_rows, write_csv

Configure = Callable[..., Config]
Learned = tuple[dict[str, torch.Tensor], list[dict[str, Any]]]  # weights, and the log without speeds


def corpus_of(config: Config) -> Corpus:
    return prepare(config.data, config.text, seed=config.seed, cache=cache_folder())


def dataset_of(texts: list[str]) -> TextDataset:
    lexicon = Lexicon(Tokenizer("words", lowercase=False))
    store = TokenStore.in_memory(*lexicon.encode(texts), lexicon.tokens)
    rows = np.arange(len(texts))
    return TextDataset(
        store, rows, np.zeros(len(texts), int), vocabulary=Vocabulary([]), max_tokens=9, truncate="head"
    )


def bad(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity != NOTE]


# -- near-duplicates -------------------------------------------------------------------------------


def nearest_by_brute_force(texts: list[str], others: list[str]) -> dict[int, tuple[int, float]]:
    """Return row -> its nearest other row (the first of several) and the Jaccard index."""
    found = {}
    sets = [[set(text.lower().split()) for text in some] for some in (texts, others)]
    for i, mine in enumerate(sets[0]):
        best = (0, -1.0)
        for j, theirs in enumerate(sets[1]):
            if len(mine) >= 5 and len(theirs) >= 5 and len(mine & theirs) / len(mine | theirs) > best[1]:
                best = (j, len(mine & theirs) / len(mine | theirs))
        if best[1] >= 0.8 - 1e-12:
            found[i] = best
    return found


def similar_texts(count: int, seed: int) -> list[str]:
    """Return texts of 1 to 16 words; about half are near-duplicates of another."""
    randomness = random.Random(seed)
    words = [*FILLERS, *(f"w{i}" for i in range(60))]
    texts: list[list[str]] = []
    for _ in range(count):
        if texts and randomness.random() < 0.5:
            text = list(randomness.choice(texts))
            for _ in range(randomness.randint(0, 3)):
                text[randomness.randrange(len(text))] = randomness.choice(words)
            randomness.shuffle(text)
        else:
            text = randomness.choices(words, k=randomness.randint(1, 16))
        texts.append(text)
    return [" ".join(w.upper() if randomness.random() < 0.1 else w for w in text) for text in texts]


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_equal_an_all_pairs_search(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = similar_texts(300, seed)
    mine, others = texts[:120], texts[120:]
    expected = nearest_by_brute_force(mine, others)
    assert len(expected) > 10
    for rows_at_once, pairs_at_once in ((50_000, 1_000_000), (37, 50)):  # parts make no difference
        monkeypatch.setattr("lstm_sentiment.provenance.near_duplicates.ROWS_AT_ONCE", rows_at_once)
        monkeypatch.setattr("lstm_sentiment.provenance.near_duplicates.PAIRS_AT_ONCE", pairs_at_once)
        found = near_duplicates(dataset_of(mine), dataset_of(others))
        assert found.examined == 120
        assert found.rows.tolist() == list(expected)
        assert found.others.tolist() == [other for other, _ in expected.values()]
        assert found.jaccard == pytest.approx([jaccard for _, jaccard in expected.values()])


def test_large_corpora_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"all of these are the very same but n{i}" for i in range(200)]
    every = near_duplicates(dataset_of(texts[:100]), dataset_of(texts[100:]))
    assert (every.examined, len(every.rows)) == (100, 100)
    monkeypatch.setattr("lstm_sentiment.provenance.near_duplicates.MOST_PAIRS", 2500)
    some = near_duplicates(dataset_of(texts[:100]), dataset_of(texts[100:]))
    assert 0 < some.examined < 100
    assert len(some.rows) == some.examined


def test_near_duplicates_of_given_rows_and_empty_texts() -> None:
    found = near_duplicates(dataset_of(["", "a"]), dataset_of(["", "b"]))
    assert (len(found.rows), found.examined) == (0, 2)
    same = dataset_of(["a b c d e f", "f e d c b a", "a b c"])
    assert near_duplicates(same, same, rows=np.array([1])).rows.tolist() == [1]
    assert near_duplicates(same, same, rows=np.zeros(0, int)).examined == 0


# -- data ------------------------------------------------------------------------------------------


def split_files(tmp_path: Path, **rows: list[tuple[str, str]]) -> list[str]:
    return [f"--data.{split}={write_csv(tmp_path / f'{split}.csv', of)}" for split, of in rows.items()]


def test_repeated_and_similar_texts_across_splits_are_named(configure: Configure, tmp_path: Path) -> None:
    rows = make_rows(300)
    long = [row for row in rows[:200] if len(row[0].split()) > 14]
    nearly = [
        (f"{text} today", "negative" if label != "negative" else "positive") for text, label in long[:4]
    ]
    files = split_files(
        tmp_path, train=rows[:200], validation=[*rows[200:250], *nearly], test=[*rows[250:], *rows[:3]]
    )
    facts, findings = examine_data(corpus_of(configure(*files)))
    of_pair = facts["similar"]["validation, train"]
    assert (of_pair["rows"], of_pair["other_label"]) == (4, 4)
    example = of_pair["examples"][0]
    assert len(of_pair["examples"]) == 3
    lines = (tmp_path / "validation.csv").read_text("utf-8").splitlines()
    assert example["validation"]["text"] in lines[example["validation"]["line"] - 1].lower()
    assert example["validation"]["text"].removesuffix(" today") == example["train"]["text"]
    assert facts["similar"]["test, train"]["rows"] == 0  # equal texts are not near-duplicates
    assert facts["shared_texts"]["test"] == 3
    assert [f.key for f in bad(findings)] == ["data.deduplicate", "data.group_column"]
    assert sum("train.csv:" in line for line in data_lines(facts)) == 3


def test_lengths_cuts_and_unknown_words_are_counted(configure: Configure, tmp_path: Path) -> None:
    strange = [
        (" ".join(f"x{i}y{n}" for n in range(10)), label) for i, (_, label) in enumerate(make_rows(60))
    ]
    files = split_files(tmp_path, train=make_rows(200), validation=strange)
    corpus = corpus_of(configure(*files, "--data.test=null", "--text.max_tokens=9"))
    facts, findings = examine_data(corpus)
    full = [len(text.split()) for text, _ in make_rows(200)]
    of = facts["splits"]["train"]
    assert of["length"]["100"] == max(full)
    assert of["length"]["50"] == int(np.percentile(full, 50, method="higher"))
    assert of["cut_texts"] == pytest.approx(np.mean([n > 9 for n in full]))
    assert facts["splits"]["validation"]["cut_texts"] == 1
    assert [f.key for f in bad(findings)] == ["text.min_frequency", "text.max_tokens"], "each once"
    assert findings[0].what == "unknown tokens: 100% of validation"
    cut = {name: f"{of['cut_texts']:.0%} of {name}" for name, of in facts["splits"].items()}
    assert set(cut) == {"train", "validation"}
    assert findings[1].what.startswith(f"truncated texts: {', '.join(cut.values())}; lost tokens: ")


def test_class_shift_is_measured(configure: Configure, tmp_path: Path) -> None:
    rows = make_rows(600)
    few = [row for i, row in enumerate(rows[300:]) if row[1] != "positive" or i % 5 == 0]
    _, healthy = examine_data(
        corpus_of(configure(*split_files(tmp_path, train=rows[:300], validation=rows[300:450])))
    )
    assert bad(healthy) == []
    config = configure(*split_files(tmp_path, train=rows[:300], validation=few), "--data.test=null")
    facts, findings = examine_data(corpus_of(config))
    assert [f.key for f in bad(findings)] == ["data.validation"]
    assert facts["shift"]["validation"]["distance"] > 0.2
    assert class_shift(np.array([0, 1] * 20), np.array([1, 0] * 5), 3) == {"distance": 0.0, "p": 1.0}


# -- settings without effect -----------------------------------------------------------------------


@pytest.fixture
def columns(tmp_path: Path) -> list[str]:
    """Three files with a constant column `source`."""
    argv = []
    for seed, split in enumerate(("train", "validation", "test")):
        rows = make_rows(90, seed=seed)
        lines = ["text,label,source", *(f"{text} {split},{label},web" for text, label in rows)]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        argv.append(f"--data.{split}={tmp_path / f'{split}.csv'}")
    return [*argv, *ONCE]


@pytest.fixture
def frozen(tmp_path: Path) -> list[str]:
    """Frozen vectors and no n-grams: no embedding is trained."""
    numbers = np.random.default_rng(0).normal(size=(len(FILLERS), 16)) / 10
    lines = [
        f"{word.lower()} {' '.join(f'{n:.4f}' for n in row)}"
        for word, row in zip(FILLERS, numbers, strict=True)
    ]
    (tmp_path / "vectors.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [
        f"--text.vectors={tmp_path / 'vectors.txt'}",
        "--text.freeze_vectors=true",
        "--text.subwords=0",
        *ONCE,
    ]


def learned(config: Config) -> Learned:
    """Train, and return the weights and the log without speeds."""
    run(config)
    folder = RunFolder(config.out)
    log = [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]
    return folder.load(BEST).tensors["model"], [
        {name: value for name, value in entry.items() if name != "tokens_per_s"} for entry in log
    ]


def same_result(first: Learned, second: Learned) -> bool:
    (weights, log), (other_weights, other_log) = first, second
    return log == other_log and all(torch.equal(weights[name], other_weights[name]) for name in weights)


ONCE = ("--trainer.epochs=1",)
NO_GAIN = ("--trainer.learning_rate=1e-12", "--trainer.ema=0", "--trainer.epochs=3")
# key, other settings, a value without effect, another one, one with an effect, a warning or a note
INERT = [
    ("trainer.batch_size", ONCE, "300", "900", "150", WARNING),
    ("trainer.accumulate", ONCE, "50", "12", "11", WARNING),
    ("trainer.patience", NO_GAIN, "2", "0", "1", WARNING),
    ("trainer.metric", ONCE, "accuracy", "macro_f1", None, WARNING),
    ("trainer.ema", (), "0.99", "0.999", "0.5", NOTE),
    ("trainer.class_weights", ONCE, "balanced", "none", None, WARNING),
    ("trainer.weight_decay", ("--trainer.learning_rate=1e-5", *ONCE), "1e-4", "0", "10", WARNING),
    ("text.max_vocabulary", ONCE, "30000", "5000", "20", NOTE),
    ("text.max_tokens", ONCE, "100", "400", "5", NOTE),
    ("text.truncate", ONCE, "head", "middle", None, WARNING),
    ("text.min_frequency", ("--text.max_vocabulary=20", *ONCE), "3", "2", "200", WARNING),
    ("text.lowercase", ("--text.tokenizer=basic_english", *ONCE), "false", "true", None, WARNING),
    ("data.max_rows", ONCE, "240", "null", "200", NOTE),
    ("data.deduplicate", ONCE, "false", "true", None, WARNING),
    ("data.filter", "columns", "{source: web}", "{}", None, WARNING),
    ("data.group_column", "columns", "source", "null", None, WARNING),
    ("trainer.embedding_rate", "frozen", "7.0", "2.0", None, WARNING),
]


@pytest.mark.parametrize(
    ("key", "beside", "inert", "same", "other", "severity"), INERT, ids=lambda v: str(v)[:25]
)
def test_a_setting_reported_without_effect_has_none(
    key: str, beside: Any, inert: str, same: str, other: str | None, severity: str,
    configure: Configure, tmp_path: Path, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    settings = request.getfixturevalue(beside) if isinstance(beside, str) else beside

    def make(value: str) -> Config:
        return configure(*settings, f"--{key}={value}", f"--out={tmp_path / value.strip('{}')}-run")

    found = {f.key: f.severity for f in unused_settings(make(inert), corpus_of(make(inert)), [key])}
    assert found == {key: severity}
    without = learned(make(inert))
    assert same_result(without, learned(make(same)))
    if other is not None:  # where the line is drawn
        assert unused_settings(make(other), corpus_of(make(other)), [key]) == []
        assert not same_result(without, learned(make(other)))


def test_a_checkpoint_interval_reported_inert_writes_no_extra_checkpoints(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    saved: list[str] = []
    save = RunFolder.save
    monkeypatch.setattr(
        RunFolder, "save", lambda self, name, *rest: (saved.append(name), save(self, name, *rest))
    )
    for every, expected in ((1000, True), (24, True), (36, True), (20, False), (5, False)):
        config = configure(f"--trainer.checkpoint_every={every}", f"--out={tmp_path / str(every)}")
        found = unused_settings(config, corpus_of(config), ["trainer.checkpoint_every"])
        assert bool(found) is expected
        saved.clear()
        run(config)
        assert (saved.count(LAST) == config.trainer.epochs) is expected


# -- probes and causes -----------------------------------------------------------------------------


def examined(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    corpus = corpus_of(config)
    probes = Probes(initial_model(config, corpus), corpus, config)
    found = {name: getattr(probes, name)() for name in ("first_loss", "gradient_norms", "overfit", "control")}
    return examine_data(corpus)[0], found


def cause_of(config: Config) -> Finding | None:
    return most_likely_cause(*examined(config), trainer=config.trainer, subwords=config.text.subwords)


def test_a_healthy_configuration_has_no_findings(configure: Configure) -> None:
    _, probes = examined(configure())
    assert probe_findings(probes) == []
    assert probes["control"]["true"] > 0.9 > 0.6 > probes["control"]["shuffled"]
    assert set(probes["gradient_norms"]) == {
        "embedding",
        "subwords",
        "forward_lstms.0",
        "backward_lstms.0",
        "head",
    }
    assert all(norm > 0 for norm in probes["gradient_norms"].values())


@pytest.mark.parametrize(
    ("settings", "key", "what"),
    [
        (["--trainer.learning_rate=1000"], "trainer.learning_rate", "too high"),
        (["--trainer.learning_rate=1e-9", "--trainer.weight_decay=0"], "trainer.learning_rate", "too low"),
        (["--trainer.weight_decay=1000"], "trainer.weight_decay", "too high"),
        (["--trainer.clip_norm=1e-12"], "trainer.clip_norm", "too low"),
        (["--text.min_frequency=1000000", "--text.subwords=0"], "text.min_frequency", "100%"),
    ],
)
def test_the_injected_cause_is_found(configure: Configure, settings: list[str], key: str, what: str) -> None:
    cause = cause_of(configure(*settings))
    assert cause is not None
    assert cause.key == key
    assert what in cause.what


def test_random_labels_are_distinguished_from_a_bad_learning_rate(
    configure: Configure, tmp_path: Path
) -> None:
    rows = make_rows(600)
    labels = [label for _, label in rows]
    random.Random(1).shuffle(labels)
    data = write_csv(
        tmp_path / "r.csv", [(text, label) for (text, _), label in zip(rows, labels, strict=True)]
    )
    cause = cause_of(configure(f"--data.train={data}", "--data.validation=0.4"))
    assert cause is not None
    assert cause.key == "data.label_column"


def test_a_dominant_class_is_found(configure: Configure, tmp_path: Path) -> None:
    randomness = random.Random(0)
    rows = [
        (f"{' '.join(randomness.choices(FILLERS, k=9))} n{i}", "bad" if i % 50 else "good")
        for i in range(1500)
    ]
    config = configure(f"--data.train={write_csv(tmp_path / 'r.csv', rows)}", "--data.validation=0.2")
    cause = cause_of(config)
    assert cause is not None
    assert cause.key == "trainer.class_weights"
    _, findings = examine_data(corpus_of(config))
    assert "98% of the training rows are 'bad'" in next(f for f in findings if f.key == cause.key).what


def test_label_leakage_is_found(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model already trained on the validation rows does not forget them with shuffled labels at once."""
    config = configure("--trainer.learning_rate=1e-6", "--trainer.ema=0")
    corpus = corpus_of(config)
    model = initial_model(config, corpus).train()
    batch = corpus.validation.batch(np.arange(len(corpus.validation)))
    for _ in range(60):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(*batch.inputs), batch.labels_B).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad.sign()  # the first use of torch.optim takes seconds
    findings = probe_findings({"control": Probes(model, corpus, config).control()})
    assert [(f.severity, f.key) for f in findings] == [(ERROR, "text.vectors")]


def test_large_vectors_cause_exploding_or_vanishing_gradients(configure: Configure) -> None:
    corpus = corpus_of(configure())
    model = initial_model(configure(), corpus)
    with torch.no_grad():
        model.head.weight *= 1e4
    probes = Probes(model, corpus, configure())
    found = probe_findings({"first_loss": probes.first_loss(), "gradient_norms": probes.gradient_norms()})
    assert ["first loss" in found[0].what, "explodes" in found[1].what] == [True, True]
    with torch.no_grad():
        model.head.weight /= 1e4
        model.embedding.weight *= 1e6  # every gate is shut or open
    norms = Probes(model, corpus, configure()).gradient_norms()
    assert "vanishes" in probe_findings({"gradient_norms": norms})[0].what


def test_probes_do_not_change_the_model(configure: Configure) -> None:
    corpus = corpus_of(configure())
    model = initial_model(configure(), corpus)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    probes = Probes(model, corpus, configure())
    first = (probes.first_loss(), probes.gradient_norms(), probes.overfit(), probes.control())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert (probes.first_loss(), probes.gradient_norms(), probes.overfit(), probes.control()) == first


# -- invariance ------------------------------------------------------------------------------------


def test_a_trained_model_is_invariant(trained_run: Path) -> None:
    checks = check_invariance(load(trained_run))
    assert invariance_findings(checks) == []
    measured = [check for check in checks if check.difference is not None]
    assert len(measured) >= 6
    assert all(check.difference < 1e-5 for check in measured if check.tolerance == 1e-4)
    if not torch.cuda.is_available():
        assert [check.difference for check in checks if check.name == "on cuda"] == [None]


@pytest.mark.skipif(not lstm_takes_bf16(), reason="bf16 LSTMs do not run on this CPU")
def test_mixed_precision_is_measured_where_the_machine_has_it(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lstm_sentiment.diagnostics.invariance.describe_machine", lambda device: {"bf16_on_cpu": True}
    )
    checks = {check.name: check for check in check_invariance(load(trained_run, device="cpu"))}
    assert 1e-5 < (checks["in bf16 on cpu"].difference or 0) < 0.1  # not the fp32 numbers again
    assert checks["in fp16 on cpu"].difference is None


class OverPadding(Pooling):
    """Pools over padding too."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def pool(self, states: States) -> torch.Tensor:
        pooled = [of.amax(0) if self.kind == "max" else of.float().mean(0) for of in states.read]
        return torch.cat(pooled, dim=1)

    token_shares = add = onnx_add = onnx = None  # type: ignore[assignment]


def test_a_model_that_reads_padding_is_found(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = load(trained_run)
    monkeypatch.setattr("lstm_sentiment.kernels.pooling.applies", lambda read: False)  # use PyTorch's pooling
    monkeypatch.setattr("lstm_sentiment.models.lstm.pooling_of", OverPadding)
    failed = {check.name for check in check_invariance(classifier) if not check.holds}
    assert {"in one large batch", "padded, next to a long text", "with the padding overwritten"} <= failed
    assert {f.severity for f in invariance_findings(check_invariance(classifier))} == {ERROR}


@pytest.mark.skipif(not lstm_takes_bf16(), reason="bf16 LSTMs do not run on this CPU")
def test_a_model_that_reads_padding_is_not_blamed_on_the_number_format(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lstm_sentiment.diagnostics.invariance.describe_machine", lambda device: {"bf16_on_cpu": True}
    )
    classifier = load(trained_run, device="cpu")
    monkeypatch.setattr("lstm_sentiment.kernels.pooling.applies", lambda read: False)
    monkeypatch.setattr("lstm_sentiment.models.lstm.pooling_of", OverPadding)
    checks = {check.name: check for check in check_invariance(classifier)}
    assert not checks["in one large batch"].holds
    assert checks["in bf16 on cpu"].difference is not None
    assert checks["in bf16 on cpu"].holds


def test_a_backward_lstm_that_starts_on_padding_is_found(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = load(trained_run)
    assert classifier.config.model.bidirectional

    def whole(steps: int, lengths_B: torch.Tensor) -> torch.Tensor:
        place_TB = torch.arange(steps - 1, -1, -1)[:, None] * len(lengths_B) + torch.arange(len(lengths_B))
        return place_TB.flatten()

    monkeypatch.setattr("lstm_sentiment.kernels.library.library", lambda *_: None)  # has no such index
    monkeypatch.setattr("lstm_sentiment.models.cells.reversal", whole)
    assert {check.name for check in check_invariance(classifier) if not check.holds} >= {
        "in small mixed batches", "padded, next to a long text",
    }  # fmt: skip


def test_a_prediction_that_depends_on_row_order_is_found(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = load(trained_run)
    head_logits = SentimentLSTM.head_logits

    def by_place(self: SentimentLSTM, read: Any, lengths_B: torch.Tensor) -> torch.Tensor:
        return head_logits(self, read, lengths_B) + torch.arange(len(lengths_B))[:, None] * torch.tensor(
            [1e-3, 0, 0]
        )

    monkeypatch.setattr(SentimentLSTM, "head_logits", by_place)
    assert not any(check.holds for check in check_invariance(classifier) if "order" in check.name)


# -- frozen and cross-validated runs ---------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen_run(tmp_path_factory: pytest.TempPathFactory, trained_run: Path) -> Path:
    """A cross-validated run with a head and a linear model around the frozen LSTM of another run."""
    folder = tmp_path_factory.mktemp("frozen")
    argv = [
        f"--data.train={write_csv(folder / 'data.csv', make_rows(150, seed=7))}",
        f"--out={folder / 'run'}",
    ]
    argv += [f"--pretrained={trained_run}", "--adapt=frozen", "--trainer.threads=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        run(parse_config(argv, program="test", description=""), given=given_keys(argv))
    torch.set_flush_denormal(False)
    return folder / "run"


def test_a_frozen_run_is_not_probed_by_training_steps(
    frozen_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own held-out scores say what it learned; settings of the optimizer are not advised."""
    monkeypatch.setattr("lstm_sentiment.diagnostics.sanity_checks.Trainer", None)
    diagnosis = diagnose_run(frozen_run, rows=True)
    scores = RunFolder(frozen_run).read(RunMetrics).validation
    probes = diagnosis.facts["probes"]
    assert set(probes) == {"frozen", "predicted", "validation", "held_out"}
    assert probes["frozen"]["true"] == scores.macro_recall
    assert f"held-out rows   {scores.rows} cross-validated training rows" in "\n".join(diagnosis.lines)
    assert diagnosis.cause is None
    assert not {str(of.key) for of in diagnosis.findings} & {"trainer.learning_rate", "trainer.epochs"}


def test_out_of_fold_predictions_of_a_cross_validated_run_are_counted(frozen_run: Path) -> None:
    probes = diagnose_run(frozen_run, rows=True).facts["probes"]
    confusion_CC = np.array(RunFolder(frozen_run).read(RunMetrics).validation.confusion)
    assert list(probes["predicted"].values()) == confusion_CC.sum(axis=0).tolist()
    assert list(probes["validation"].values()) == confusion_CC.sum(axis=1).tolist()
    assert probes["held_out"] == "cross-validated training rows"


def test_a_frozen_run_that_learned_nothing_is_found(frozen_run: Path, tmp_path: Path) -> None:
    """Held-out scores at chance level are a finding, although the model fits its training rows."""
    copied = tmp_path / "run"
    shutil.copytree(frozen_run, copied)
    folder = RunFolder(copied)
    metrics = folder.read(RunMetrics)
    rows = metrics.validation.rows
    one = [[of.rows, 0, 0] for of in metrics.validation.per_class.values()]
    chance = dataclasses.replace(metrics.validation, confusion=one, macro_recall=1 / 3)
    write_json(
        copied / RunMetrics.FILE, dataclasses.replace(metrics, validation=chance, baselines={}).as_json()
    )
    diagnosis = diagnose_run(copied, rows=True)
    whats = [finding.what for finding in diagnosis.findings]
    assert any("macro recall is 0.333" in what and "chance level is 0.333" in what for what in whats)
    assert any(f"for {rows} of {rows} cross-validated training rows" in what for what in whats)
    assert diagnosis.cause is not None
    assert diagnosis.cause.key == "data.label_column"


def test_a_frozen_configuration_is_fitted_before_training(frozen_run: Path) -> None:
    config = read_config(frozen_run / "config.yaml")
    diagnosis = diagnose(config, given={"data.train", "pretrained", "adapt"})
    of = diagnosis.facts["probes"]["frozen"]
    assert set(diagnosis.facts["probes"]) == {"frozen"}
    assert of["true"] > of["chance"] + 3 * of["standard_error"]
    assert diagnosis.cause is None


def test_an_unfinished_cross_validated_run_has_no_held_out_predictions(
    frozen_run: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "run"
    shutil.copytree(frozen_run, copied)
    (copied / RunMetrics.FILE).unlink()
    diagnosis = diagnose_run(copied, rows=True)
    assert diagnosis.facts["probes"] == {"held_out": "cross-validated training rows"}
    assert any("is not finished" in line for line in diagnosis.lines)
    assert diagnosis.cause is None


# -- fine-tuned runs -------------------------------------------------------------------------------


def test_the_probes_of_a_fine_tuned_run_begin_as_the_run_did(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Path(shutil.copytree(trained_run, tmp_path / "start"))
    argv = [f"--data.train={write_csv(tmp_path / 'data.csv', make_rows(150, seed=8))}"]
    argv += [f"--out={tmp_path / 'run'}", f"--pretrained={start}", "--adapt=finetune", "--trainer.epochs=1"]
    run(parse_config([*argv, "--trainer.threads=1"], program="test", description=""), given=given_keys(argv))
    probed: list[Probes] = []
    monkeypatch.setattr("lstm_sentiment.diagnostics.diagnose._probe", lambda of: probed.append(of) or {})

    def begun_with() -> tuple[torch.Tensor, list[str]]:
        diagnosis = diagnose_run(tmp_path / "run", rows=True)
        weights = lstm_of(probed[-1].model).state_dict()["forward_lstms.0.weight_hh_l0"]
        return weights, [of.what for of in diagnosis.findings if of.key == "pretrained"]

    weights, findings = begun_with()
    assert torch.equal(weights, lstm_of(load(start).model).state_dict()["forward_lstms.0.weight_hh_l0"])
    assert findings == []
    shutil.rmtree(start)
    weights_without, (found,) = begun_with()
    assert not torch.equal(weights, weights_without)
    assert found.startswith(f"what the run began with cannot be read: {start}: ")


# -- whole runs ------------------------------------------------------------------------------------


def test_a_healthy_run_has_no_warnings(trained_run: Path) -> None:
    diagnosis = diagnose_run(trained_run, rows=True)
    assert bad(diagnosis.findings) == []
    assert diagnosis.cause is None
    assert diagnosis.sound
    predicted, truth = (diagnosis.facts["probes"][name] for name in ("predicted", "validation"))
    assert sum(predicted.values()) == sum(truth.values())


def test_test_rows_are_never_predicted(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    corpora: list[Corpus] = []
    batch = TextDataset.batch

    def watched(self: TextDataset, *rest: Any) -> Any:
        seen.extend(self.rows[rest[0]].tolist())
        return batch(self, *rest)

    def kept(*args: Any, **kwargs: Any) -> Corpus:
        corpora.append(prepare(*args, **kwargs))
        return corpora[-1]

    seen: list[int] = []
    monkeypatch.setattr(TextDataset, "batch", watched)
    monkeypatch.setattr("lstm_sentiment.experiment.train.prepare", kept)
    monkeypatch.setattr(
        "lstm_sentiment.diagnostics.diagnose.check_invariance", lambda _: []
    )  # texts of its own
    diagnose(configure())
    assert set(seen) >= set(corpora[0].validation.rows.tolist())
    assert corpora[0].test is not None
    assert not set(seen) & set(corpora[0].test.rows.tolist())


def test_changed_or_missing_data_of_a_run_is_reported(configure: Configure, reviews: Path) -> None:
    config = configure()
    run(config)
    write_csv(reviews, make_rows(243))
    changed = diagnose_run(config.out)
    assert "not those the run was trained on" in changed.findings[0].what
    reviews.unlink()
    gone = diagnose_run(config.out)
    assert [finding.key for finding in gone.findings] == ["data.train"]
    assert "reviews.csv" in gone.findings[0].what
    assert set(gone.facts) == {"invariance"}


def test_the_command_prints_writes_and_exits(
    configure: Configure, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--trainer.threads", "1", f"--data.train={reviews}", "--trainer.batch_size", "16"]
    argv += ["--trainer.learning_rate", "0.02", "--model.hidden_size=16", "--model.embedding_size=16"]
    doctor.main([*argv, "--json", str(tmp_path / "found.json")])
    printed = capsys.readouterr()
    assert "one batch" in printed.out
    assert "shuffled labels" in printed.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == {"findings", "cause", "data", "probes", "invariance"}
    assert found["data"]["splits"]["train"]["rows"] == 192


def test_the_command_exits_with_1_on_errors(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lstm_sentiment.diagnostics.diagnose.load", lambda run: classifier)
    classifier = load(trained_run)
    monkeypatch.setattr("lstm_sentiment.kernels.pooling.applies", lambda read: False)  # use PyTorch's pooling
    monkeypatch.setattr("lstm_sentiment.models.lstm.pooling_of", OverPadding)
    with pytest.raises(SystemExit) as left:
        doctor.main([str(trained_run)])
    assert left.value.code == 1
    assert "error    " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--trainer.epoch=3"], ConfigError),
        (["nowhere"], RunError),
        (["nowhere", "--trainer.epochs=3"], ConfigError),
        (["--json", "/no/such/folder/x.json"], DataError),
        (["--json"], ConfigError),
        (["--data.train=nowhere.csv"], DataError),
    ],
)
def test_usage_errors_are_reported(argv: list[str], error: type[Exception]) -> None:
    with pytest.raises(error):
        doctor.main(argv)
