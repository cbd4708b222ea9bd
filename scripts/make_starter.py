"""Train the starter: one model of three classes from many corpora.

    scripts/make_starter --data FOLDER --out runs/starter
    scripts/make_starter --data FOLDER --out runs/no-films --leave-out films
    scripts/make_starter --data FOLDER --out runs/open --terms open

scripts/starter.yaml lists the corpora, relative to FOLDER or in installed packages. The same command resumes
an interrupted run. Each corpus uses the classes in its own way (a "neutral" headline is not a "neutral"
review): in training it has its own bias on the logits, which the finished model lacks, and the third class
is masked for a corpus of two classes. The bias of the finished model is fitted on held-out rows, with equal
weights for corpora and classes.

Legend: R rows, B texts of a batch, C classes, K branches, S corpora.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
import re
import sys
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import yaml
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from starter_templates import misspelt, sentences
from torch import Tensor, nn

from lstm_sentiment import __version__
from lstm_sentiment.checkpoints.run_folder import BEST, LAST, RunFolder
from lstm_sentiment.config.command_line import config_yaml
from lstm_sentiment.config.schema import Config, TrainerConfig
from lstm_sentiment.config.sections import DataConfig, ModelConfig, TextConfig
from lstm_sentiment.data.dataset import Batch, TextDataset
from lstm_sentiment.data.token_store import TokenStore, cache_folder
from lstm_sentiment.data.word_vectors import load_vectors
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.evaluation.calibration import fit_calibration
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.models.network import Network, WideAndDeep, lstm_of, new_network
from lstm_sentiment.prediction.make_self_test import self_test_of
from lstm_sentiment.records.checkpoint_facts import SavedTraining
from lstm_sentiment.records.json_values import to_json
from lstm_sentiment.records.scores import Scores
from lstm_sentiment.system.devices import describe_machine, pick_device, pick_precision, set_up_cpu
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.system.files import write_json
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS
from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer, Vocabulary
from lstm_sentiment.training.progress import report_epoch
from lstm_sentiment.training.trainer import Trainer

log = logging.getLogger("make_starter")

TABLE = Path(__file__).with_name("starter.yaml")
TEMPLATES = Path(__file__).with_name("starter_templates.yaml")
LABELS = ["negative", "neutral", "positive"]
HELD_OUT = 25  # one text in so many selects the epoch and fits the bias and the calibration
MOST_CHARACTERS = 4_000  # of a text: the rest is truncated anyway
SLIPS, MOST_CHARACTERS_SHORT = 0.1, 150  # fraction of short texts that are duplicated with a misspelt word
MASK = -1e4  # added to the logit of a class that a corpus does not have
Array = npt.NDArray[Any]


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    threads = set_up_cpu(options.threads)
    device = pick_device(options.device)
    precision = pick_precision("auto", device)
    table = yaml.safe_load(options.table.read_text())
    tokenized = tokenize(table, options)
    config = config_of(options, table)
    started = time.perf_counter()
    rows = chosen(tokenized, options)
    _report(rows)
    train, held_out, vocabulary = encode(tokenized.store, rows, config, min_texts=table["min_texts"])
    log.info(
        "%s train rows, %s tokens, vocabulary %s",
        f"{len(train):,}",
        f"{train.all_tokens:,}",
        f"{len(vocabulary):,}",
    )
    model = new_model(vocabulary, config, rows.attrs["corpora"])
    if isinstance(model.network, WideAndDeep):
        model.network.ngrams.set_row_rates(train)
    if table.get("vectors"):
        _set_vectors(model.network, vocabulary, options.data / table["vectors"], config)
    model.to(device)
    folder = RunFolder(options.out)
    if not folder.is_run():
        folder.begin(
            config_yaml=config_yaml(config),
            vocabulary=vocabulary.tokens[len(SPECIAL_TOKENS) :],
            labels=LABELS,
            label_map={label: label for label in LABELS},
        )
    places = {
        "train": rows.corpus.to_numpy()[~rows.held_out],
        "held_out": rows.corpus.to_numpy()[rows.held_out],
    }
    task = ManyCorpora(model, held_out, places, smoothing=config.trainer.label_smoothing, device=device)
    trainer = Trainer(
        model,
        train,
        task,
        config=config.trainer,
        seed=config.seed,
        device=device,
        precision=precision,
        processes=Processes(),
        store=folder,
        facts={"data": rows.attrs["key"]},
    )
    if folder.has(LAST):
        checkpoint = folder.load(LAST)
        trainer.resume(checkpoint.tensors, checkpoint.facts_as(SavedTraining))
        log.info("resuming from step %d of %d", trainer.state.step, trainer.total_steps)
    trainer.fit()
    best = trainer.evaluated_model()
    assert isinstance(best, Corpora)
    facts = {"device": str(device), "precision": precision, "threads": threads}
    finish(
        folder,
        best,
        held_out,
        places["held_out"],
        rows,
        config,
        vocabulary,
        {**facts, "s": time.perf_counter() - started},
    )


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make_starter", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the corpora of the table")
    parser.add_argument("--out", type=Path, required=True, help="run folder to write or resume")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/starter-work"), help="folder for tokenized corpora"
    )
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument(
        "--leave-out", nargs="*", default=[], metavar="NAME", help="corpora, or groups of them"
    )
    parser.add_argument("--terms", choices=["any", "open"], default="any")
    parser.add_argument("--epochs", type=int, default=0, help="0: as the table says")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    return parser.parse_args(argv)


def config_of(options: argparse.Namespace, table: dict[str, Any]) -> Config:
    trainer = table["trainer"] | ({"epochs": options.epochs} if options.epochs else {})
    return Config(
        out=str(options.out),
        seed=options.seed,
        data=DataConfig(train="see README.md", labels=LABELS),
        text=TextConfig(**table["text"]),
        model=ModelConfig(**table["model"]),
        trainer=TrainerConfig(**trainer),
    )


def new_model(vocabulary: Vocabulary, config: Config, corpora: list[dict[str, Any]]) -> Corpora:
    """Return a network with random weights and, for each corpus, a bias of 0."""
    torch.manual_seed(config.seed)
    network = new_network(vocabulary, len(LABELS), subwords=config.text.subwords, **asdict(config.model))
    return Corpora(network, corpora)


# Rows


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """All rows of all corpora, tokenized, with label, corpus, weight and held_out of each."""

    store: TokenStore
    rows: pd.DataFrame
    corpora: list[dict[str, Any]]
    key: str


def tokenize(table: dict[str, Any], options: argparse.Namespace) -> Tokenized:
    """Read and tokenize the corpora of a table, or load them from the cache of an earlier call."""
    read = {name: table[name] for name in ("never", "corpora")} | {"normalize": table["text"]["normalize"]}
    templates = TEMPLATES.read_text(encoding="utf-8")
    key = hashlib.sha256(json.dumps([read, templates]).encode()).hexdigest()[:16]
    folder = options.work / key
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows, corpora = read_rows(table, options.data)
        lexicon = Lexicon(Tokenizer("words", lowercase=True, normalize=table["text"]["normalize"]))
        numbers_N, lengths_R = lexicon.encode(rows.text.tolist())
        np.savez(folder / "tokens.npz", numbers_N=numbers_N, lengths_R=lengths_R)
        (folder / "tokens.json").write_text(json.dumps(lexicon.tokens))
        rows.drop(columns="text").to_parquet(folder / "rows.parquet")
        (folder / "corpora.json").write_text(json.dumps(corpora))
        (folder / "done").touch()
    arrays = np.load(folder / "tokens.npz")
    tokens = json.loads((folder / "tokens.json").read_text())
    store = TokenStore.in_memory(arrays["numbers_N"], arrays["lengths_R"], tokens)
    corpora = json.loads((folder / "corpora.json").read_text())
    return Tokenized(store=store, rows=pd.read_parquet(folder / "rows.parquet"), corpora=corpora, key=key)


def chosen(tokenized: Tokenized, options: argparse.Namespace) -> pd.DataFrame:
    """Return the rows of the selected corpora; `attrs` has these corpora, in the order of `corpus`."""
    corpora = tokenized.corpora
    known = {of["name"] for of in corpora} | {of["group"] for of in corpora}
    for name in options.leave_out:
        if name not in known:
            raise ConfigError(f"--leave-out: no corpus or group named {name}")
    wanted = [
        place
        for place, of in enumerate(corpora)
        if not {of["name"], of["group"]} & set(options.leave_out)
        and (of["open"] if options.terms == "open" else of["open"] != "only")
    ]
    rows = tokenized.rows[tokenized.rows.corpus.isin(wanted)].copy()
    rows["corpus"] = rows.corpus.map({place: i for i, place in enumerate(wanted)})
    rows.attrs |= {"corpora": [corpora[place] for place in wanted], "key": f"{tokenized.key} {wanted}"}
    return rows


def read_rows(table: dict[str, Any], data: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return all rows, without duplicates and held-out benchmark texts, and the corpora."""
    never = {letters(text) for file in table["never"] for text in pd.read_parquet(data / file).text}
    corpora: list[dict[str, Any]] = []
    parts, seen = [], set[str]()
    for name, of in table["corpora"].items():
        written, apart = of["group"] == "written", of.get("open") == "only"
        rows = read_corpus(name, of, data)
        rows["key"] = rows.text.map(letters)
        allowed = [written or (key != "" and (apart or key not in seen)) for key in rows.key]
        rows = rows[[fits and key not in never for fits, key in zip(allowed, rows.key, strict=True)]]
        rows = rows.drop_duplicates("text" if written else "key")
        seen |= set() if written or apart else set(rows.key)
        digest = (rows.movie if "movie" in rows else rows.key).map(
            lambda text: hashlib.md5(text.encode()).digest()[0]
        )
        rows["corpus"], rows["weight"] = len(corpora), float(of["weight"])
        rows["held_out"] = (digest % HELD_OUT == 0) & (not written) & (name != "sst_phrases")
        rows = _with_slips(rows, seed=len(corpora))
        corpora.append(
            {
                "name": name,
                "group": of["group"],
                "rows": len(rows),
                "classes": sorted(int(label) for label in rows.label.unique()),
                "anchored": bool(of.get("anchored")),
                "terms": of["terms"],
                "open": of.get("open", False),
            }
        )
        parts.append(rows[["text", "label", "corpus", "weight", "held_out"]])
    return pd.concat(parts, ignore_index=True), corpora


def _with_slips(rows: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Return rows, with some of the short ones duplicated with a misspelt word, to train subwords."""
    randomness = random.Random(seed)
    short = rows[~rows.held_out & (rows.text.str.len() <= MOST_CHARACTERS_SHORT)]
    copies = short.sample(frac=SLIPS, random_state=seed)
    copies = copies.assign(text=[misspelt(text, randomness) for text in copies.text])
    return pd.concat([rows, copies[copies.text != short.text.reindex(copies.index)]], ignore_index=True)


def read_corpus(
    name: str, of: dict[str, Any], data: Path, *, seed: int = 0, as_written: bool = False
) -> pd.DataFrame:
    """Return text and label (an index into LABELS) of one corpus; the movie id if there is one.

    Placeholders of names and addresses are replaced, and long texts cut, unless they are wanted `as_written`.
    """
    if of.get("source") == "templates":
        rows = pd.DataFrame(sentences(of["rows"], seed=seed), columns=["text", "label"])
    elif of.get("source") == "lexicon":
        rows = pd.DataFrame(lexicon(), columns=["text", "label"])
    else:
        file = of.get("file", f"general/{name}.parquet")
        if file.startswith("package:"):
            package, _, inside = file.removeprefix("package:").partition("/")
            rows = pd.read_csv(_package_folder(package) / inside, encoding="utf-8", encoding_errors="replace")
        else:
            rows = pd.read_parquet(data / file)
        text, label = of.get("columns", ["text", "label"])
        rows = rows.rename(columns={text: "text", label: "label"})
        if "filter" in of:
            for column, value in of["filter"].items():
                rows = rows[rows[column] == value]
    names = of.get("labels", {label: label for label in LABELS})
    rows = rows.assign(label=rows.label.map(names)).dropna(subset=["label", "text"])
    rows["label"] = rows.label.map(LABELS.index)
    if not as_written:
        rows["text"] = _replaced(rows.text)
    if "movie_id" in rows:
        rows["movie"] = rows.movie_id.astype(str)
    if "rows" in of and len(rows) > of["rows"]:
        rows = rows.sample(of["rows"], random_state=seed)
    return rows[["text", "label", *(["movie"] if "movie" in rows else [])]].copy()


def _replaced(texts: pd.Series[str]) -> pd.Series[str]:
    """Return texts as they are trained on: cut, with placeholders of names and addresses replaced."""
    texts = texts.str.slice(0, MOST_CHARACTERS).str.replace(
        r"\[(NAME|RELIGION|PERSON|LOCATION)\]", "someone", regex=True
    )
    texts = texts.str.replace(r"@mention\b|@anonymous\b", "@user", regex=True)
    texts = texts.str.replace(r"\{link\}|http://url_removed", "http://t.co/x", regex=True)
    return texts.str.replace(r"\s*#SemST\b|\$t\$", " ", regex=True)


def _package_folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ConfigError(f"the package {package} is not installed: pip install '.[dev]'")
    return Path(found.origin).parent


def lexicon() -> list[tuple[str, str]]:
    """Return strongly polar words of the lists of VADER and TextBlob, as texts of one word."""
    import textblob
    import vaderSentiment

    found: dict[str, str] = {}
    for line in (
        Path(vaderSentiment.__file__).with_name("vader_lexicon.txt").read_text(encoding="utf-8").splitlines()
    ):
        word, mean = line.split("\t")[:2]
        if abs(float(mean)) >= 0.7:
            found[word] = "positive" if float(mean) > 0 else "negative"
    senses: dict[str, list[tuple[float, float]]] = {}
    content = (Path(textblob.__file__).parent / "en" / "en-sentiment.xml").read_text(encoding="utf-8")
    for word, polarity, subjectivity in re.findall(
        r'form="([^"]+)".*?polarity="([^"]+)" subjectivity="([^"]+)"', content
    ):
        senses.setdefault(word, []).append((float(polarity), float(subjectivity)))
    for word, of in senses.items():
        polarity, subjectivity = np.mean(of, axis=0)
        if abs(polarity) >= 0.35:
            found.setdefault(word, "positive" if polarity > 0 else "negative")
        elif abs(polarity) < 0.05 and subjectivity < 0.3:
            found.setdefault(word, "neutral")
    return [(style(word), label) for word, label in found.items() for style in (str, str.capitalize)]


def letters(text: str) -> str:
    """Return the case-folded letters and digits of a text, the key for finding duplicates.

    >>> letters("It's  GOOD!")
    'itsgood'
    """
    return re.sub(r"[\W_]+", "", str(text).casefold())


def _report(rows: pd.DataFrame) -> None:
    for place, of in enumerate(rows.attrs["corpora"]):
        counts = rows.label[rows.corpus == place].value_counts().reindex(range(3), fill_value=0).tolist()
        log.info("  %-28s %9s rows: %s", of["name"], f"{of['rows']:,}", "  ".join(f"{n:>7,}" for n in counts))


def encode(
    store: TokenStore, rows: pd.DataFrame, config: Config, *, min_texts: int
) -> tuple[TextDataset, TextDataset, Vocabulary]:
    """Return the training rows, the held-out rows, and the tokens of at least `min_texts` training texts."""
    held_out_R = rows.held_out.to_numpy()
    places_R = rows.index.to_numpy()
    texts_V = np.zeros(len(store.tokens), np.int64)
    for place in places_R[~held_out_R].tolist():
        texts_V[np.unique(store.ids_N[store.offsets[place] : store.offsets[place + 1]])] += 1
    order = np.argsort(-texts_V, kind="stable")
    kept = [store.tokens[i] for i in order[: config.text.max_vocabulary] if texts_V[i] >= min_texts]
    vocabulary = Vocabulary([token for token in kept if not _names_somebody(token)])

    def dataset(which_R: Array, weights: Array | None) -> TextDataset:
        return TextDataset(
            store,
            places_R[which_R],
            rows.label.to_numpy()[which_R],
            vocabulary=vocabulary,
            weights=weights,
            max_tokens=config.text.max_tokens,
            truncate=config.text.truncate,
            subwords=config.text.subwords,
        )

    return dataset(~held_out_R, rows.weight.to_numpy()[~held_out_R]), dataset(held_out_R, None), vocabulary


def _names_somebody(token: str) -> bool:
    return (
        token in SPECIAL_TOKENS or (token[0] == "@" and len(token) > 1) or "@" in token[1:] or ".com" in token
    )


def _set_vectors(network: Network, vocabulary: Vocabulary, file: Path, config: Config) -> None:
    vectors = load_vectors(
        str(file), vocabulary, size=config.model.embedding_size, seed=config.seed, cache=cache_folder()
    )
    with torch.no_grad():
        lstm_of(network).embedding.weight.copy_(vectors.weight_VE)
    log.info("vectors: %.1f%% of the vocabulary has one", 100 * len(vectors.known) / len(vocabulary))


# Training


class Corpora(nn.Module):
    """A network with a bias on the logits for each corpus.

    Args:
        network: learns what all corpora share.
        corpora: name, classes, anchored.
    """

    def __init__(self, network: Network, corpora: list[dict[str, Any]]) -> None:
        super().__init__()
        self.network = network
        branches = 2 if isinstance(network, WideAndDeep) else 1
        self.bias_KSC = nn.Parameter(torch.zeros(branches, len(corpora), len(LABELS)))
        free_S = torch.tensor([not of["anchored"] for of in corpora])
        self.free_S1: Tensor
        self.mask_SC: Tensor
        self.register_buffer("free_S1", free_S[:, None].float(), persistent=False)
        allowed_SC = torch.tensor([[c in of["classes"] for c in range(len(LABELS))] for of in corpora])
        self.register_buffer("mask_SC", torch.where(allowed_SC, 0.0, MASK), persistent=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the network's logits."""
        logits: Tensor = self.network(*inputs)
        return logits

    def of_corpus(self, logits_KBC: Tensor, corpus_B: Tensor) -> Tensor:
        """Return logits (K, B, C) with the bias and class mask of each text's corpus."""
        bias_KSC = self.bias_KSC * self.free_S1 + self.mask_SC
        return logits_KBC + bias_KSC[: len(logits_KBC)][:, corpus_B]


class ManyCorpora:
    """Three-class classification on many corpora: a `protocols.Task`."""

    choices = len(LABELS)

    def __init__(
        self,
        model: Corpora,
        held_out: TextDataset,
        places: dict[str, Array],
        *,
        smoothing: float,
        device: torch.device,
    ) -> None:
        self.held_out, self.places, self.smoothing, self.device = held_out, places, smoothing, device
        self._corpus_R = torch.from_numpy(places["train"].astype(np.int64))
        self._allowed_SC = (model.mask_SC == 0).float()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the weighted sum of row losses; classes that a corpus lacks are masked."""
        assert isinstance(model, Corpora)
        logits = model(*batch.inputs)
        logits_KBC = logits if logits.dim() == 3 else logits[None]
        corpus_B = self._corpus_R[batch.rows_B.cpu()].to(logits.device)
        log_KBC = model.of_corpus(logits_KBC.float(), corpus_B).log_softmax(dim=2)
        allowed_BC = self._allowed_SC.to(logits.device)[corpus_B]
        target_BC = self.smoothing * allowed_BC / allowed_BC.sum(dim=1, keepdim=True)
        target_BC = target_BC.scatter_add(
            1,
            batch.labels_B[:, None],
            torch.full_like(batch.labels_B[:, None], 1, dtype=target_BC.dtype) * (1 - self.smoothing),
        )
        loss_KB = -(target_BC * log_KBC * allowed_BC).sum(dim=2)
        return (loss_KB.mean(dim=0) * batch.weights_B).sum()

    def uniform_loss(self, batch: Batch) -> float:
        """Return the loss of a uniform prediction over the classes that each row's corpus has."""
        allowed_B = self._allowed_SC[self._corpus_R[batch.rows_B.cpu()]].sum(dim=1)
        return float((allowed_B.log() * batch.weights_B.cpu()).sum())

    def score(self, model: nn.Module) -> Scores:
        """Return the scores of the held-out rows, each with the bias of its corpus."""
        assert isinstance(model, Corpora)
        logits_RC = predict_logits(model, self.held_out, device=self.device, batch_size=256)
        shares_K = model.network.shares if isinstance(model.network, WideAndDeep) else torch.ones(1)
        corpus_R = torch.from_numpy(self.places["held_out"].astype(np.int64))
        with torch.no_grad():
            bias_RC = (
                model.of_corpus(torch.zeros(len(shares_K), len(corpus_R), 3), corpus_R)
                * shares_K[:, None, None]
            ).sum(0)
        probabilities_RC = softmax((logits_RC + bias_RC).double().numpy(), axis=1)
        return score(self.held_out.labels, probabilities_RC, LABELS)

    def report(self, entry: dict[str, float], scores: Scores, *, epochs: int, is_best: bool) -> None:
        """Log an epoch."""
        report_epoch(entry, scores, LABELS, epochs=epochs, is_best=is_best)


# The finished model


def finish(
    folder: RunFolder,
    model: Corpora,
    held_out: TextDataset,
    corpus_R: Array,
    rows: pd.DataFrame,
    config: Config,
    vocabulary: Vocabulary,
    machine: dict[str, Any],
) -> None:
    """Fit branch weights, bias and calibration on held-out rows, and write the run folder."""
    network, device = model.network.eval(), next(model.parameters()).device
    branches = list(network.children()) if isinstance(network, WideAndDeep) else [network]
    logits_KRC = np.stack(
        [predict_logits(of, held_out, device=device, batch_size=256).numpy() for of in branches]
    )
    shares_K, bias_C = fit_bias(logits_KRC, held_out.labels, corpus_R, rows.attrs["corpora"])
    log.info("shares %s, bias %s", shares_K.round(3).tolist(), bias_C.round(3).tolist())
    with torch.no_grad():
        if isinstance(network, WideAndDeep):
            network.shares.copy_(torch.from_numpy(shares_K))
        else:
            for parameter in lstm_of(network).head.parameters():
                parameter.mul_(shares_K[0])
        own = shares_K[0] if isinstance(network, WideAndDeep) else 1.0
        lstm_of(network).head.bias += torch.from_numpy(bias_C / own).to(device)
    logits_RC = np.tensordot(shares_K, logits_KRC, axes=1) + bias_C
    drawn_R = _drawn_evenly(corpus_R, seed=config.seed)
    calibration = fit_calibration(logits_RC[drawn_R], held_out.labels[drawn_R])
    probabilities_RC = calibration.probabilities(logits_RC)
    scores = {"all": to_json(score(held_out.labels, probabilities_RC, LABELS))}
    for place, of in enumerate(rows.attrs["corpora"]):
        of_corpus_R = corpus_R == place
        if of_corpus_R.any():
            answers_RC, truth_R = probabilities_RC[of_corpus_R], held_out.labels[of_corpus_R]
            if 1 not in of["classes"]:
                answers_RC = answers_RC * [1, 0, 1] / answers_RC[:, [0, 2]].sum(axis=1, keepdims=True)
            right_R = answers_RC.argmax(axis=1) == truth_R
            recalls = [right_R[truth_R == c].mean() for c in np.unique(truth_R)]
            scores[of["name"]] = {
                "rows": len(truth_R),
                "accuracy": float(right_R.mean()),
                "macro_recall": float(np.mean(recalls)),
            }
            log.info(
                "  %-28s %6d rows: accuracy %.3f  macro recall %.3f",
                of["name"],
                len(truth_R),
                right_R.mean(),
                np.mean(recalls),
            )
    weights = {name: tensor.cpu().clone() for name, tensor in network.state_dict().items()}
    facts = {
        "epoch": 0,
        "scores": {},
        "data": rows.attrs["key"],
        "calibration": asdict(calibration),
        "proof": self_test_of(weights, labels=LABELS, vocabulary=vocabulary, config=config),
    }
    folder.save(BEST, {"model": weights}, facts)
    write_json(
        folder.path / "environment.json",
        {"lstm_sentiment": __version__, **describe_machine(device), "packages": {}},
    )
    write_json(
        folder.path / "corpora.json",
        {"corpora": rows.attrs["corpora"], "held_out": scores, "machine": machine},
    )


def fit_bias(
    logits_KRC: Array, truth_R: Array, corpus_R: Array, corpora: list[dict[str, Any]]
) -> tuple[Array, Array]:
    """Fit branch weights (K,) and bias (C,) to all corpora, with equal weights for corpora and classes."""
    mask_RC = np.array([[0.0 if c in of["classes"] else MASK for c in range(len(LABELS))] for of in corpora])[
        corpus_R
    ]
    cells = corpus_R * len(LABELS) + truth_R
    counts = np.bincount(cells, minlength=len(corpora) * len(LABELS))
    weight_R = 1 / np.maximum(counts[cells], 20)
    weight_R *= np.array([len(of["classes"]) == len(LABELS) for of in corpora])[corpus_R] * 0.8 + 0.2
    weight_R /= weight_R.sum()
    rows_R = np.arange(len(truth_R))
    branches = len(logits_KRC)

    def loss(values: Array) -> float:
        logits_RC = (
            np.tensordot(values[:branches], logits_KRC, axes=1) + np.append(values[branches:], 0) + mask_RC
        )
        return float(-(weight_R * log_softmax(logits_RC, axis=1)[rows_R, truth_R]).sum())

    start = np.concatenate([np.ones(branches) / branches, np.zeros(len(LABELS) - 1)])
    bounds = [(0.0, 10.0)] * branches + [(-3.0, 3.0)] * (len(LABELS) - 1)
    found = minimize(loss, start, bounds=bounds, method="L-BFGS-B").x
    bias_C = np.concatenate([found[branches:], [0.0]])
    return found[:branches], bias_C - bias_C.mean()


def _drawn_evenly(corpus_R: Array, *, seed: int, most: int = 150) -> Array:
    random = np.random.default_rng(seed)
    drawn = [random.permutation(np.flatnonzero(corpus_R == place))[:most] for place in np.unique(corpus_R)]
    return np.sort(np.concatenate(drawn))


if __name__ == "__main__":
    main(sys.argv[1:])
