"""Hugging Face Hub: from_pretrained, save_pretrained, push_to_hub.

A published model is a run folder for `load`, with a model card and without paths of the training machine.
Only these files are downloaded: safetensors, JSON and YAML, checked like any run folder by their sha256.
Local folders do not need huggingface_hub.
"""

from __future__ import annotations

import abc
import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lstm_sentiment.checkpoints.expected import of_classifier
from lstm_sentiment.checkpoints.run_folder import BEST, MONITORING, SHARED_FILES, RunFolder
from lstm_sentiment.checkpoints.run_paths import CARD, NO_ROWS, STATEMENT, run_path
from lstm_sentiment.checkpoints.tensors import known_tokens
from lstm_sentiment.checkpoints.untrusted_files import classes_of_run, vocabulary_of
from lstm_sentiment.config.command_line import config_yaml, read_config
from lstm_sentiment.config.public import public_config
from lstm_sentiment.errors import RunError, shown
from lstm_sentiment.prediction.model_card import model_card
from lstm_sentiment.records.checkpoint_facts import BestFacts, merged_classes
from lstm_sentiment.records.run_reports import REPORTS, read_reports
from lstm_sentiment.system.extras import need
from lstm_sentiment.system.files import local_path, make_folder, new_folder, write_atomically, write_json
from lstm_sentiment.system.open_errors import reading

WEIGHTS = tuple(f"{BEST}/{name}" for name in ("manifest.json", "model.safetensors", "state.json"))
FILES = (*SHARED_FILES, *WEIGHTS, *REPORTS, MONITORING, "README.md")
_NAME = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)
T = TypeVar("T", bound="Published")


class Published(abc.ABC):
    """Mixin with the Hub methods, for a class that is loaded from a run folder.

    Args:
        run: the folder that an object was loaded from, or None.
    """

    run: Path | None

    @classmethod
    @abc.abstractmethod
    def _from_run(cls: type[T], run: Path, device: str) -> T:
        """Load a run folder."""

    @classmethod
    def from_pretrained(
        cls: type[T],
        name: str | Path,
        *,
        revision: str | None = None,
        device: str = "auto",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
    ) -> T:
        """Load a model from a folder, or by its name USER/NAME from the Hugging Face Hub.

        Args:
            name: a run folder, a folder written by `save_pretrained`, ``starter``, or a name on the Hub. An
                existing folder takes precedence.
            revision: branch, tag or commit on the Hub; only a commit is immutable.
            device: auto, cpu, cuda, cuda:N or mps.
            token: of the Hub, for private models; by default that of the login.
            cache_dir: of downloaded files; None for the Hub's cache.

        Raises:
            RunError: no such folder or model; the Hub cannot be reached.
            CheckpointError: a file is missing or damaged.
            MissingExtraError: a name on the Hub, and huggingface_hub is not installed.

        Example::

            classifier = SentimentClassifier.from_pretrained("user/tweets", revision="v1")
        """
        folder = run_path(name)
        if not folder.is_dir():
            folder = _fetch(str(name), revision=revision, token=token, cache_dir=cache_dir)
        return cls._from_run(folder, device)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        license: str | None = None,  # noqa: A002 - the Hub's word
        language: str | Sequence[str] | None = None,
    ) -> None:
        """Write the run as a folder for publishing, with a model card.

        Paths and URLs in config.yaml are reduced to their last part, except ``package:...``. A packed run
        such as the starter is copied unchanged, with its card and data statement.

        Args:
            folder: a new or empty folder, written atomically.
            name: of the model in its card; default: that of the folder.
            license: such as ``mit``, for the card.
            language: of the texts, such as ``en``, for the card.

        Raises:
            RunError: the folder is not empty; this was not loaded from a finished run; a license or language
                for a packed run, which has a card.
            CheckpointError: a file of the run is missing or damaged.

        Example::

            classifier = lstm_sentiment.load("runs/tweets")
            classifier.save_pretrained("published/tweets", license="mit", language="en")
        """
        if self.run is None:
            raise RunError("this model has no run folder; write one with SentimentEstimator.save and load it")
        folder = local_path(folder)
        _publish(
            RunFolder(self.run),
            folder,
            name=name or folder.absolute().name,
            license=license,
            language=language,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload an lstm_sentiment model",
        token: str | bool | None = None,
        license: str | None = None,  # noqa: A002 - the Hub's word
        language: str | Sequence[str] | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face Hub, README.md included.

        Args:
            repo_id: USER/NAME; created if it does not exist.
            private: visibility of a new repository; None for the account's default.
            revision: existing branch to upload to; None for main.
            commit_message: of the upload.
            token: with write access; by default that of the login.
            license: such as ``mit``, for the card.
            language: of the texts, such as ``en``, for the card.

        Returns:
            the URL of the commit.

        Raises:
            RunError: this was not loaded from a finished run; the Hub refuses or cannot be reached.
            MissingExtraError: huggingface_hub is not installed.

        Example::

            lstm_sentiment.load("runs/tweets").push_to_hub("user/tweets", private=True, license="mit")
        """
        if not _NAME.fullmatch(repo_id):
            raise RunError(f"{shown(repo_id)}: is not a name on the Hugging Face Hub; give USER/NAME")
        api = need("huggingface_hub", extra="hub").HfApi(token=token, library_name="lstm_sentiment")
        with tempfile.TemporaryDirectory(prefix="lstm_sentiment-") as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder, name=repo_id, license=license, language=language)
            with _hub_errors(repo_id):
                api.create_repo(repo_id, private=private, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=repo_id, folder_path=folder, commit_message=commit_message, revision=revision
                )
        return str(commit.commit_url)


def _fetch(
    name: str, *, revision: str | None, token: str | bool | None, cache_dir: str | Path | None
) -> Path:
    """Download the files of a model, and no others, to the Hub's cache; return the folder."""
    if not _NAME.fullmatch(name):
        raise RunError(f"{shown(name)}: no such folder, and not a name on the Hugging Face Hub (USER/NAME)")
    hub = need("huggingface_hub", extra="hub")
    with _hub_errors(name, also=f"; there is no folder {shown(name)} either"):
        folder = Path(
            hub.snapshot_download(
                name, revision=revision, token=token, cache_dir=cache_dir, allow_patterns=[*FILES, STATEMENT]
            )
        )
    if not RunFolder(folder).is_run():
        raise RunError(f"{shown(name)}: this model of the Hugging Face Hub is not an lstm_sentiment model")
    return folder


def _publish(run: RunFolder, folder: Path, *, name: str, **card: Any) -> None:
    best = run.load(BEST, of_classifier(run.path))
    config = public_config(read_config(run.path / "config.yaml"))
    if config.data.train == NO_ROWS:
        _copy_packed(run, folder, **card)
        return
    run.check_scores(": is it finished? Resume it with --resume true")
    labels, label_map = classes_of_run(run.own("labels.json"))
    contents = {name: run.read_json(name) for name in REPORTS}
    monitoring = {MONITORING: run.read_json(MONITORING)} if (run.path / MONITORING).is_file() else {}
    card["reports"] = read_reports(contents, labels, run=run.path)
    vocabulary = vocabulary_of(run.own("vocabulary.json"), known_tokens(best.tensors["model"]))
    with new_folder(folder) as building:
        published = RunFolder(building)
        published.begin(
            config_yaml=config_yaml(config),
            vocabulary=vocabulary,
            labels=labels,
            label_map=label_map,
        )
        published.save(BEST, best.tensors, best.facts)
        for report, content in (contents | monitoring).items():
            write_json(building / report, content)
        merged = merged_classes(labels, best.facts_as(BestFacts))
        text = model_card(name=name, config=config, merged=merged, **card)
        write_atomically(building / "README.md", text.encode("utf-8", "replace"))


def _copy_packed(run: RunFolder, folder: Path, **card: Any) -> None:
    """Copy a packed run, with its own card and data statement."""
    given = [name for name, value in card.items() if value is not None]
    if given:
        raise RunError(
            f"{run.path}: is packed and has its own card; leave out {' and '.join(given)}, and add it to the "
            f"{CARD} of the copy"
        )
    names = (*SHARED_FILES, *WEIGHTS, "environment.json", STATEMENT, CARD)
    with new_folder(folder) as building:
        make_folder(building / BEST)
        for name in names:
            with reading(run.path / name):
                content = run.own(name).read_bytes()
            write_atomically(building / name, content)


@contextlib.contextmanager
def _hub_errors(name: str, also: str = "") -> Iterator[None]:
    """Convert errors of the Hub into `RunError` with a hint."""
    errors = need("huggingface_hub.errors", extra="hub")
    # The module lists all exceptions of its version, including those of its HTTP library.
    known = (e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception))
    failures: tuple[type[Exception], ...] = (*known, OSError, ValueError)
    log_in = "log in with 'hf auth login', or set HF_TOKEN"
    try:
        yield
    except failures as error:
        if isinstance(error, errors.HFValidationError):
            problem = "is not a name on the Hugging Face Hub; give USER/NAME"
        elif isinstance(error, errors.RevisionNotFoundError):
            problem = "has no such revision on the Hugging Face Hub"
        elif isinstance(error, errors.RepositoryNotFoundError):
            problem = f"is not on the Hugging Face Hub, or not accessible: {log_in} if it is private"
        elif isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
            problem = "the Hugging Face Hub cannot be reached, and the model is not in the cache"
        elif getattr(getattr(error, "response", None), "status_code", 0) in (401, 403):
            problem = f"access to the Hugging Face Hub denied: {log_in} to a token with access"
        else:
            problem = f"the Hugging Face Hub: {shown(str(error), 300)}"
        raise RunError(f"{shown(name)}: {problem}{also}") from None
