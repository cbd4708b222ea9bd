"""Runs on the Hugging Face Hub: from_pretrained, save_pretrained, push_to_hub.

What is published is a run folder that `load` reads, with a model card and without the paths of the
machine it was trained on. What is fetched is only such files, and they go the way of every run
folder: safetensors, JSON and YAML, each with its sha256. A local folder needs no package of the Hub.
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
from lstm_sentiment.checkpoints.run_folder import BEST, SHARED_FILES, RunFolder
from lstm_sentiment.checkpoints.run_paths import CARD, NO_ROWS, STATEMENT, run_path
from lstm_sentiment.checkpoints.tensors import known_tokens
from lstm_sentiment.checkpoints.untrusted_files import classes_of_run, vocabulary_of
from lstm_sentiment.config.command_line import config_yaml, read_config
from lstm_sentiment.config.public import public_config
from lstm_sentiment.errors import CheckpointError, RunError, shown
from lstm_sentiment.prediction.model_card import model_card
from lstm_sentiment.system.extras import need
from lstm_sentiment.system.files import local_path, make_folder, new_folder, write_atomically, write_json
from lstm_sentiment.system.open_errors import reading

REPORTS = ("metrics.json", "data.json", "environment.json")
WEIGHTS = tuple(f"{BEST}/{name}" for name in ("manifest.json", "model.safetensors", "state.json"))
FILES = (*SHARED_FILES, *WEIGHTS, *REPORTS, "README.md")
_NAME = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)
T = TypeVar("T", bound="Published")


class Published(abc.ABC):
    """The three methods, for a class that is loaded from a run folder.

    Args:
        run: the folder that an object was loaded from; None for one that was not.
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
            name: a run folder, one that `save_pretrained` wrote, ``starter`` for the model of the package, or
                a name on the Hub. A folder comes first.
            revision: branch, tag or commit on the Hub; a commit is sure to be the same tomorrow.
            device: auto, cpu, cuda, cuda:N or mps.
            token: of the Hub, for private models; by default the one that you logged in with.
            cache_dir: where fetched files are kept, if not in the Hub's own cache.

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
        """Write the run that this was loaded from as a folder to publish, with a model card.

        Of paths and URLs in config.yaml only the last part stays, and of ``package:...`` all. A packed run
        such as the starter is copied as it is, with the card and the data statement that it has.

        Args:
            folder: a new or empty one; it appears whole or not at all.
            name: of the model in its card; without one, the folder's.
            license: such as ``mit``, for the card.
            language: of the texts, such as ``en``, for the card.

        Raises:
            RunError: the folder is not empty; this was not loaded from a finished run; a license or language
                for a packed one, whose card says it.
            CheckpointError: a file of the run is missing or damaged.

        Example::

            classifier = lstm_sentiment.load("runs/tweets")
            classifier.save_pretrained("published/tweets", license="mit", language="en")
        """
        if self.run is None:
            raise RunError("there is no run folder of this model; SentimentEstimator.save writes one to load")
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
            repo_id: USER/NAME; made if it is not there.
            private: whether a new repository is; None for the account's default.
            revision: branch to upload to, one that is there; None for main.
            commit_message: of the upload.
            token: one that may write; by default the one that you logged in with.
            license: such as ``mit``, for the card.
            language: of the texts, such as ``en``, for the card.

        Returns:
            the address of the commit.

        Raises:
            RunError: this was not loaded from a finished run; the Hub refuses or cannot be reached.
            MissingExtraError: huggingface_hub is not installed.

        Example::

            lstm_sentiment.load("runs/tweets").push_to_hub("user/tweets", private=True, license="mit")
        """
        if not _NAME.fullmatch(repo_id):
            raise RunError(f"{shown(repo_id)}: is no name on the Hugging Face Hub, which is USER/NAME")
        api = need("huggingface_hub", extra="hub").HfApi(token=token, library_name="lstm_sentiment")
        with tempfile.TemporaryDirectory(prefix="lstm_sentiment-") as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder, name=repo_id, license=license, language=language)
            with _told(repo_id):
                api.create_repo(repo_id, private=private, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=repo_id, folder_path=folder, commit_message=commit_message, revision=revision
                )
        return str(commit.commit_url)


def _fetch(
    name: str, *, revision: str | None, token: str | bool | None, cache_dir: str | Path | None
) -> Path:
    """Return the folder in the Hub's cache with a model's files, and no other files of its repository."""
    if not _NAME.fullmatch(name):
        raise RunError(
            f"{shown(name)}: no such folder, and no name on the Hugging Face Hub, which is USER/NAME"
        )
    hub = need("huggingface_hub", extra="hub")
    with _told(name, also=f"; there is no folder {shown(name)} either"):
        folder = Path(
            hub.snapshot_download(
                name, revision=revision, token=token, cache_dir=cache_dir, allow_patterns=[*FILES, STATEMENT]
            )
        )
    if not RunFolder(folder).is_run():
        raise RunError(f"{shown(name)}: this model of the Hugging Face Hub was not made by lstm_sentiment")
    return folder


def _publish(run: RunFolder, folder: Path, *, name: str, **card: Any) -> None:
    best = run.load(BEST, of_classifier(run.path))
    config = public_config(read_config(run.path / "config.yaml"))
    if config.data.train == NO_ROWS:
        _copy_packed(run, folder, **card)
        return
    if not (run.path / "metrics.json").is_file():
        raise RunError(f"{run.path}: has no metrics.json: is it finished? Go on with --resume true")
    reports = {report: run.read_json(report) for report in REPORTS}
    labels, label_map = classes_of_run(run.own("labels.json"))
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
        for report, facts in reports.items():
            write_json(building / report, facts)
        try:
            text = model_card(name=name, config=config, reports=reports, **card)
        except (LookupError, TypeError, ValueError, AttributeError):
            files = ", ".join(REPORTS)
            raise CheckpointError(f"{run.path}: one of {files} is malformed") from None
        write_atomically(building / "README.md", text.encode("utf-8", "replace"))


def _copy_packed(run: RunFolder, folder: Path, **card: Any) -> None:
    """Write a copy of a packed run, whose card and data statement are its own."""
    given = [name for name, value in card.items() if value is not None]
    if given:
        raise RunError(
            f"{run.path}: is packed and has a card of its own; leave out {' and '.join(given)}, and write it "
            f"into the {CARD} of the copy"
        )
    names = (*SHARED_FILES, *WEIGHTS, "environment.json", STATEMENT, CARD)
    with new_folder(folder) as building:
        make_folder(building / BEST)
        for name in names:
            with reading(run.path / name):
                content = run.own(name).read_bytes()
            write_atomically(building / name, content)


@contextlib.contextmanager
def _told(name: str, also: str = "") -> Iterator[None]:
    """Raise what goes wrong with the Hub as a `RunError` that says what to do."""
    errors = need("huggingface_hub.errors", extra="hub")
    # The module knows all that its version can raise, those of its HTTP library among them.
    known = (e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception))
    failures: tuple[type[Exception], ...] = (*known, OSError, ValueError)
    log_in = "log in with 'hf auth login', or set HF_TOKEN"
    try:
        yield
    except failures as error:
        if isinstance(error, errors.HFValidationError):
            problem = "is no name on the Hugging Face Hub, which is USER/NAME"
        elif isinstance(error, errors.RevisionNotFoundError):
            problem = "has no such revision on the Hugging Face Hub"
        elif isinstance(error, errors.RepositoryNotFoundError):
            problem = f"is not on the Hugging Face Hub, or not for you: {log_in} if it is private"
        elif isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
            problem = "the Hugging Face Hub cannot be reached, and the model was not fetched before"
        elif getattr(getattr(error, "response", None), "status_code", 0) in (401, 403):
            problem = f"the Hugging Face Hub does not let you: {log_in} to a token that may"
        else:
            problem = f"the Hugging Face Hub: {shown(str(error), 300)}"
        raise RunError(f"{shown(name)}: {problem}{also}") from None
