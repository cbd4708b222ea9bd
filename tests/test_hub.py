"""Publishing models as folders and on the Hub, without a network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import yaml
from conftest import TINY, make_rows, write_csv
from huggingface_hub import ModelCard, errors
from huggingface_hub.utils import filter_repo_objects

from lstm_sentiment import SentimentClassifier, load, train
from lstm_sentiment.checkpoints.run_folder import BEST
from lstm_sentiment.config.public import public_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import DataConfig, TextConfig
from lstm_sentiment.errors import CheckpointError, MissingExtraError, RunError, SentimentError
from lstm_sentiment.estimator import SentimentEstimator
from lstm_sentiment.prediction.hub import FILES

TEXTS = ["great", "awful service", "", "so-so 😀", "never seen before"]
LABELS = ["bad |<b>*x*", "[good](http://x.y)", "no_idea: `1`"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def reported_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a test split and baselines, whose labels, folder and file have hostile names."""
    folder = tmp_path_factory.mktemp("private") / "secret-user"
    folder.mkdir()
    names = dict(zip(["negative", "neutral", "positive"], LABELS, strict=True))
    data = write_csv(folder / "my_rows.csv", make_rows(240))
    argv = [f"--data.train={data}", f"--data.labels={json.dumps(names)}", f"--out={folder / 'run'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        train.main([*argv, *TINY, "--trainer.epochs=2"])
    return folder / "run"


@pytest.fixture
def published(reported_run: Path, tmp_path: Path) -> Path:
    load(reported_run).save_pretrained(tmp_path / "tweets", license="mit", language="en")
    return tmp_path / "tweets"


# -- folders ---------------------------------------------------------------------------------------


def test_a_published_folder_gives_bit_equal_predictions(reported_run: Path, published: Path) -> None:
    expected = load(reported_run).predict_proba(TEXTS)
    for folder in (published, str(published)):
        assert (SentimentClassifier.from_pretrained(folder).predict_proba(TEXTS) == expected).all()
    assert (load(published).predict_proba(TEXTS) == expected).all()
    weights = [(folder / BEST / "model.safetensors").read_bytes() for folder in (reported_run, published)]
    assert weights[0] == weights[1]


def test_it_has_only_the_needed_files(published: Path, tmp_path: Path) -> None:
    found = {file.relative_to(published).as_posix() for file in published.rglob("*") if file.is_file()}
    assert found == set(FILES)
    assert list(tmp_path.iterdir()) == [published]


def test_nothing_reveals_where_it_was_trained(reported_run: Path, published: Path) -> None:
    assert b"secret-user" in (reported_run / "config.yaml").read_bytes()
    for file in published.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"secret-user" not in content, file
            assert str(reported_run.parent.parent.parent).encode() not in content, file


def test_all_other_settings_are_published(reported_run: Path, published: Path) -> None:
    before, after = (yaml.safe_load((of / "config.yaml").read_text()) for of in (reported_run, published))
    assert after["data"].pop("train") == "my_rows.csv"
    assert (after.pop("out"), before["data"].pop("train") != "") == (Config().out, True)
    before.pop("out")
    assert after == before


def test_paths_and_keys_of_all_sources_are_left_out() -> None:
    config = Config(
        data=DataConfig(
            train="https://me:key@host/a.csv?key=1#x", validation="s3://b/c/v.jsonl", test="/a/b/t/"
        ),
        text=TextConfig(vectors=r"C:\Users\me\glove.txt", freeze_vectors=True),
    )
    clean = public_config(config)
    found = (clean.data.train, clean.data.validation, clean.data.test, clean.text.vectors)
    assert found == ("a.csv", "v.jsonl", "t", "glove.txt")
    kept = Config(data=DataConfig(validation=0.2, test=None), text=TextConfig(vectors="glove.6B.100d"))
    assert public_config(kept) == kept


def test_publishing_twice_gives_the_same_files(published: Path, tmp_path: Path) -> None:
    load(published).save_pretrained(tmp_path / "again", name="tweets", license="mit", language="en")
    for name in FILES:
        assert (published / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_folder_in_use_is_not_touched(reported_run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        load(reported_run).save_pretrained(tmp_path)
    with pytest.raises(RunError, match="not empty"):
        load(reported_run).save_pretrained(tmp_path / "notes.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    load(reported_run).save_pretrained(tmp_path / "empty")
    assert load(tmp_path / "empty").predict("great")


def test_a_failure_leaves_no_folder(
    reported_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("lstm_sentiment.prediction.hub.model_card", fail)
    with pytest.raises(ZeroDivisionError):
        load(reported_run).save_pretrained(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_only_an_intact_finished_run_is_published(reported_run: Path, tmp_path: Path) -> None:
    shutil.copytree(reported_run, tmp_path / "run")
    classifier = load(tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(RunError, match="is it finished"):
        classifier.save_pretrained(tmp_path / "new")
    weights = tmp_path / "run" / BEST / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        classifier.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_estimator_is_published_through_a_folder(tmp_path: Path) -> None:
    texts, labels = (list(column) for column in zip(*make_rows(60), strict=True))
    estimator = SentimentEstimator(epochs=1, embedding_size=8, hidden_size=8, subwords=0, threads=1)
    estimator.fit(texts, labels)
    with pytest.raises(RunError, match="write one with"):
        estimator.classifier_.save_pretrained(tmp_path / "new")
    estimator.save(tmp_path / "run")
    load(tmp_path / "run").save_pretrained(tmp_path / "new")
    expected = estimator.predict_proba(TEXTS)
    assert (SentimentClassifier.from_pretrained(tmp_path / "new").predict_proba(TEXTS) == expected).all()
    assert "There was no test split" in (tmp_path / "new" / "README.md").read_text()
    assert "lstm_sentiment-" not in (tmp_path / "new" / "config.yaml").read_text()


# -- the card --------------------------------------------------------------------------------------


def test_the_hub_parses_the_metrics_of_the_card(reported_run: Path, published: Path) -> None:
    card = ModelCard.load(published / "README.md")  # real code of the Hub's package
    metrics = json.loads((reported_run / "metrics.json").read_text())
    assert (card.data.license, card.data.language, card.data.model_name) == ("mit", "en", "tweets")
    assert (card.data.library_name, card.data.pipeline_tag) == ("lstm_sentiment", "text-classification")
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found["Macro-F1"] == pytest.approx(metrics["test"]["macro_f1"], abs=1e-4)
    assert found["Accuracy"] == pytest.approx(metrics["test"]["accuracy"], abs=1e-4)
    assert {(r.dataset_name, r.dataset_split) for r in card.data.eval_results} == {("my_rows.csv", "test")}


def test_license_and_language_are_not_claimed_by_default(reported_run: Path, tmp_path: Path) -> None:
    load(reported_run).save_pretrained(tmp_path / "new")
    data = ModelCard.load(tmp_path / "new" / "README.md").data
    assert (data.license, data.language) == (None, None)


def rows_of(card: str, heading: str) -> dict[str, list[str]]:
    """Return first cell -> other cells of all tables under a heading."""
    section = card.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [
        line.strip("| ").replace("\\|", "\0").split(" | ") for line in section.splitlines() if line[:1] == "|"
    ]
    return {cells[0].replace("\0", "\\|"): cells[1:] for cells in lines}


def test_tables_have_the_numbers_of_the_report(reported_run: Path, published: Path) -> None:
    card = (published / "README.md").read_text()
    metrics, data = (json.loads((reported_run / f"{name}.json").read_text()) for name in ("metrics", "data"))
    columns = [metrics["test"], *metrics["baselines"].values()]
    assert len(columns) == 3
    assert rows_of(card, "Results")["Macro-F1"] == [f"{of['macro_f1']:.4f}" for of in columns]
    bad = metrics["test"]["per_class"][LABELS[0]]
    expected = [f"{bad[score]:.4f}" for score in ("precision", "recall", "f1")] + [str(bad["rows"])]
    assert rows_of(card, "Results")["bad \\|\\<b\\>\\*x\\*"] == expected
    train_rows = data["splits"]["train"]
    counts = [train_rows["rows"], *train_rows["classes"].values()]
    assert rows_of(card, "Data")["train"][:4] == [str(count) for count in counts]
    sets = metrics["calibration"]["test"]["label_sets"]["0.9"]
    assert rows_of(card, "Calibration")["90%"] == [f"{sets['coverage']:.1%}", f"{sets['labels']:.2f}"]
    against = metrics["against_linear"]
    assert ("his model is ahead of the linear model by" in card) == (against["low"] > 0)
    assert ("his model is behind the linear model by" in card) == (against["high"] < 0)


def test_user_provided_names_are_escaped(published: Path) -> None:
    card = (published / "README.md").read_text()
    body = card.split("---\n", 2)[2]
    assert "<b>" not in body
    assert "](http" not in body.replace("\\](http", "")
    assert "no\\_idea: \\`1\\`" in body


def test_a_name_cannot_break_out_of_the_front_matter(reported_run: Path, tmp_path: Path) -> None:
    name = "x\n---\nlicense: evil\n<script>"
    load(reported_run).save_pretrained(tmp_path / "new", name=name)
    card = ModelCard.load(tmp_path / "new" / "README.md")
    assert card.data.license is None
    assert card.data.model_name == name
    assert "<script>" not in card.text.replace(repr(name), "")


# -- names on the Hub ------------------------------------------------------------------------------


def test_only_files_of_the_format_are_fetched(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (published / "pytorch_model.bin").write_bytes(b"a pickle")
    (published / "best" / "evil.py").write_text("raise SystemExit")
    asked: dict[str, Any] = {}

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], **others: Any) -> str:
        asked.update(others, repo_id=repo_id)
        names = [file.relative_to(published).as_posix() for file in published.rglob("*") if file.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):  # as the Hub's package filters
            (tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(published / name, tmp_path / "fetched" / name)
        return str(tmp_path / "fetched")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    classifier = SentimentClassifier.from_pretrained(
        "user/tweets", revision="v1", token="t", cache_dir=tmp_path / "cache", device="cpu"
    )
    expected = {"repo_id": "user/tweets", "revision": "v1", "token": "t", "cache_dir": tmp_path / "cache"}
    assert asked == expected
    assert (classifier.predict_proba(TEXTS) == load(published.parent / "fetched").predict_proba(TEXTS)).all()
    found = {
        f.relative_to(tmp_path / "fetched").as_posix()
        for f in (tmp_path / "fetched").rglob("*")
        if f.is_file()
    }
    assert found == set(FILES)


def test_a_model_of_another_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(RunError, match=r"'user/bert': .* is not an lstm_sentiment model"):
        SentimentClassifier.from_pretrained("user/bert")


@pytest.mark.parametrize(
    "name", ["no/such/folder", "/no/such", "a b", "./tweets", "", "tweetz", "a/b/", "../x"]
)
def test_invalid_repository_names_are_not_requested(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("it was asked for")
    )
    with pytest.raises(RunError):
        SentimentClassifier.from_pretrained(name)


def test_offline_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"'runs/tweetz': .* cannot be reached.* no folder 'runs/tweetz' either"
    ):
        SentimentClassifier.from_pretrained("runs/tweetz", cache_dir=tmp_path)


def test_a_model_fetched_before_loads_offline(published: Path, tmp_path: Path) -> None:
    """The Hub's own package finds it in its cache, by branch and by commit, as links."""
    commit, repository = "a" * 40, tmp_path / "cache" / "models--user--tweets"
    for number, name in enumerate(FILES):
        link, blob = repository / "snapshots" / commit / name, repository / "blobs" / str(number)
        for folder in (link.parent, blob.parent, repository / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(published / name, blob)
        link.symlink_to(blob)
    (repository / "refs" / "main").write_text(commit)
    expected = load(published).predict_proba(TEXTS)
    for revision in (None, "main", commit):
        found = SentimentClassifier.from_pretrained(
            "user/tweets", revision=revision, cache_dir=tmp_path / "cache"
        )
        assert (found.predict_proba(TEXTS) == expected).all()
    with pytest.raises(RunError, match="cannot be reached"):
        SentimentClassifier.from_pretrained("user/tweets", revision="v9", cache_dir=tmp_path / "cache")


def test_a_folder_needs_no_package_of_the_hub(published: Path) -> None:
    script = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from lstm_sentiment import SentimentClassifier\n"
        f"c = SentimentClassifier.from_pretrained({str(published)!r})\n"
        f"c.save_pretrained({str(published) + '2'!r})\n"
        "try:\n    SentimentClassifier.from_pretrained('user/x')\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{MissingExtraError.__name__} needs huggingface_hub: pip install")
    assert (published.with_name("tweets2") / "README.md").is_file()


# -- uploading -------------------------------------------------------------------------------------


class FakeHub:
    """Records requests to the Hub and stores uploads."""

    def __init__(self, kept: Path, failure: Exception | None = None) -> None:
        self.kept, self.failure, self.calls = kept, failure, list[tuple[Any, ...]]()

    def __call__(self, **settings: Any) -> FakeHub:
        self.calls.append(("HfApi", settings))
        return self

    def create_repo(self, repo_id: str, **settings: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.calls.append(("create_repo", repo_id, settings))

    def upload_folder(self, *, folder_path: Path, **settings: Any) -> SimpleNamespace:
        shutil.copytree(folder_path, self.kept)
        self.calls.append(("upload_folder", settings))
        return SimpleNamespace(commit_url="https://huggingface.co/user/tweets/commit/abc")


def test_a_push_makes_the_repository_and_uploads_what_can_be_loaded(
    reported_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub(tmp_path / "kept")
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    classifier = load(reported_run)
    url = classifier.push_to_hub(
        "user/tweets", private=True, revision="v2", commit_message="Better", token="t", license="mit"
    )
    assert url.endswith("/commit/abc")
    assert hub.calls == [
        ("HfApi", {"token": "t", "library_name": "lstm_sentiment"}),
        ("create_repo", "user/tweets", {"private": True, "exist_ok": True}),
        ("upload_folder", {"repo_id": "user/tweets", "commit_message": "Better", "revision": "v2"}),
    ]
    again = SentimentClassifier.from_pretrained(tmp_path / "kept")
    np.testing.assert_array_equal(again.predict_proba(TEXTS), classifier.predict_proba(TEXTS))
    card = (tmp_path / "kept" / "README.md").read_text()
    assert "from_pretrained('user/tweets')" in card
    assert "\n# tweets\n" in card


def answered(kind: type[Exception], status: int) -> Exception:
    http = sys.modules[errors.HfHubHTTPError.__mro__[1].__module__.split(".")[0]]  # the Hub's HTTP library
    request = http.Request("POST", "https://huggingface.co/api")
    return kind("no\x1b[31m", response=http.Response(status, request=request))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (
            lambda: answered(errors.RepositoryNotFoundError, 404),
            "not on the Hugging Face Hub, or not accessible: log in",
        ),
        (
            lambda: answered(errors.GatedRepoError, 403),
            "not on the Hugging Face Hub, or not accessible: log in",
        ),
        (lambda: answered(errors.RevisionNotFoundError, 404), "no such revision"),
        (
            lambda: answered(errors.HfHubHTTPError, 401),
            "access to the Hugging Face Hub denied: log in with 'hf auth login', or set HF_TOKEN",
        ),
        (lambda: answered(errors.HfHubHTTPError, 403), "access to the Hugging Face Hub denied"),
        (lambda: answered(errors.HfHubHTTPError, 500), r"the Hugging Face Hub: 'no\\x1b\[31m"),
        (lambda: errors.HFValidationError("x"), "is not a name on the Hugging Face Hub; give USER/NAME"),
        (lambda: errors.OfflineModeIsEnabled("x"), "cannot be reached"),
        (lambda: errors.LocalTokenNotFoundError("log in"), "the Hugging Face Hub: 'log in'"),
        (lambda: ValueError("Invalid metadata in README.md"), "Invalid metadata"),
        (lambda: errors.HTTPError("connection refused"), "connection refused"),
        (lambda: ConnectionResetError("reset"), "reset"),
    ],
)
def test_hub_errors_are_reported(
    reported_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Any, expected: str
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub(tmp_path / "kept", failure()))
    with pytest.raises(RunError, match=expected) as caught:
        load(reported_run).push_to_hub("user/tweets")
    assert str(caught.value).startswith("'user/tweets': ")
    assert isinstance(caught.value, SentimentError)


def test_pushing_offline_fails_with_a_message(reported_run: Path) -> None:
    with pytest.raises(RunError, match="cannot be reached"):
        load(reported_run).push_to_hub("user/tweets", token="hf_x")


@pytest.mark.parametrize("name", ["tweets", "a/b/c", "user/", "/tweets", "user/a b", "../x"])
def test_pushing_needs_a_full_repository_name(
    reported_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hub = FakeHub(tmp_path / "kept")
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    with pytest.raises(RunError, match="give USER/NAME"):
        load(reported_run).push_to_hub(name)
    assert hub.calls == []
